"""An activity recogniser on hours of real signal: does its C decide as the glue, at what cost, does smoothing help?

    python benchmarks/imu_stream.py runs/imu/bundle [runs/imu-16/bundle ...]     # about two minutes each

HAPT's recordings run through the student once per hop: by the numpy glue on the int8 encoder, and by the firmware's C,
compiled for this machine. Rows: how many decisions and scores differ (work `agreement`); the accuracy of the decisions
of the test people whose whole window lies in one activity, and of all that end in one, without smoothing and with
(work `accuracy`, interval over people); and on each emulated core flash, RAM, stack and counted instructions of one
decision, glue and all, and over all windows of the test part how many of the encoder's outputs are not those of
TFLite-Micro (work `firmware`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.writing import RESULTS, write_rows
from compressor import data
from compressor.data import hapt
from compressor.data.imu_windows import Recording
from compressor.tasks.imu.firmware import on_this_machine, query_program, write_stream
from compressor.tasks.imu.stream import smooth
from profiles.device import load_device
from profiles.statistics import bootstrap_interval
from profiles.storage import read_json
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.firmware import build
from targets.firmware.query import whole_query
from targets.tflite.affine import quantize

CORES = ("m4", "m33", "m55")
QUERIES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--recordings", type=int, help="of HAPT's; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "imu_stream.json")
    arguments = parser.parse_args()
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    recordings = hapt.recordings(data.fetch("hapt"))[: arguments.recordings]
    for path in arguments.bundles:
        bundle = Bundle.open(path)
        with tempfile.TemporaryDirectory() as folder:
            artifact = compile_bundle(bundle, load_device("cortex-m4"), "c", "int8", Path(folder) / "artifact")
            common = {"bundle": path.resolve().parent.name, "student": bundle.student, "task": "imu"}
            found = [*streams(artifact, recordings, Path(folder)), *firmware(artifact, Path(folder))]
        rows += [{**common, **row} for row in found]
        for row in found:
            print(row, flush=True)
    write_rows(arguments.out, rows, minutes=(time.monotonic() - start) / 60)


def streams(artifact: Artifact, recordings: list[Recording], folder: Path) -> list[dict[str, Any]]:
    """Agreement of glue and C over all recordings, and accuracy on the people of the test part."""
    glue: Any = artifact.student().glue
    settings = glue.settings
    program = on_this_machine(write_stream(folder / "program", artifact))
    tested = set(artifact.split("test")["people"].tolist())
    decisions = differ = unequal = samples = 0
    per_person: dict[str, list[np.ndarray]] = {}
    for recording in recordings:
        counts = settings.counts(recording.signal)
        hops = counts[: len(counts) // settings.hop * settings.hop].reshape(-1, settings.hop, 6)
        scores = glue.stream_scores(counts)
        smoothed = smooth(scores, settings.smoothing)
        program({"samples": hops[:1], "count": np.array([-1], np.int32)})  # start anew
        found = program({"samples": hops, "count": np.full(len(hops), settings.hop, np.int32)})
        due = found["decision"] >= 0
        samples += len(counts)
        decisions += len(smoothed)
        differ += int((found["decision"][due] != smoothed.argmax(axis=1)).sum())
        unequal += int((found["scores"][due] != smoothed).any(axis=1).sum())
        if recording.person in tested:
            right = judge(settings, recording, (scores, smoothed))
            per_person.setdefault(recording.person, []).append(right)
    hours = samples / settings.rate_hz / 3600
    rows: list[dict[str, Any]] = [
        {
            "work": "agreement",
            "hours": round(hours, 2),
            "decisions": decisions,
            "differ": differ,
            "scores_not_equal": unequal,
        }
    ]
    return rows + accuracy_rows([np.concatenate(parts) for parts in per_person.values()])


def judge(settings: Any, recording: Recording, scores: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(decisions that end in one of the student's activities, 3): right without smoothing, right with it, whole window
    in that activity."""
    ends = settings.ends(recording.signal.shape[1])
    labels = recording.labels
    truth = labels[ends - 1]
    known = [hapt.ACTIVITIES.index(name) for name in settings.classes]
    whole = np.array([(labels[end - settings.length : end] == labels[end - 1]).all() for end in ends])
    right = [np.array(known)[part.argmax(axis=1)] == truth for part in scores]
    return np.stack([*right, whole], axis=1)[np.isin(truth, known)]


def accuracy_rows(people: list[np.ndarray]) -> list[dict[str, Any]]:
    """`people`: what `judge` gives, of each; no rows where there is nobody."""
    rows: list[dict[str, Any]] = []
    for what, only_whole in (("whole windows", True), ("all", False)) if people else ():
        for index, variant in enumerate(("alone", "smoothed")):
            chosen = [part[part[:, 2]] if only_whole else part for part in people]
            values = np.array([part[:, index].mean() for part in chosen])
            sizes = np.array([len(part) for part in chosen], np.float64)
            rows.append(
                {
                    "work": "accuracy",
                    "decisions": what,
                    "variant": variant,
                    "value": float(np.average(values, weights=sizes)),
                    "ci95": [float(end) for end in bootstrap_interval(values, sizes)],
                    "n": int(sizes.sum()),
                    "people": len(people),
                }
            )
    return rows


def firmware(artifact: Artifact, folder: Path) -> list[dict[str, Any]]:
    """What one decision takes on each emulated core, and whether the encoder is TFLite-Micro's, byte by byte."""
    student, arrays = artifact.student(), artifact.split("test")
    program = query_program(student, artifact, arrays, QUERIES, folder / "query")
    different, windows = against_tflite_micro(artifact, arrays["signals"])
    rows = []
    for core in CORES:
        built = build(program.folder, core, "O2", folder / core)
        found = whole_query(program, built, 0, 60)
        rows.append(
            {
                "work": "firmware",
                "core": core,
                "emulator": built.board.machine,
                "flash_bytes": built.flash_bytes,
                "ram_bytes": built.ram_bytes,
                "stack_bytes": found.memory["stack"],
                "instructions": found.instructions,
                "decisions_agreeing": found.agreed,
                "decisions": found.queries,
                "tflite_micro_windows": windows,
                "tflite_micro_different": different,
            }
        )
    return rows


def against_tflite_micro(artifact: Artifact, signals: np.ndarray) -> tuple[int, int]:
    """Windows whose embedding in C is not that of TFLite-Micro's interpreter, and how many there are."""
    from tflite_micro.python.tflite_micro import runtime

    folder = artifact.files("encoder")[0].parent
    about = read_json(folder / "model.json")["inputs"][0]
    glue: Any = artifact.student().glue
    windows = glue.settings.windows(glue.settings.counts(signals))
    quantised = quantize(windows, about["scale"], about["zero_point"])
    micro = runtime.Interpreter.from_bytes((folder / "model.tflite").read_bytes(), arena_size=64 * 1024)
    micro_details = micro.get_output_details(0)["quantization_parameters"]
    session = artifact.student().sessions["encoder"]
    found = session({"window": windows})["embedding"]
    different = 0
    for window, embedding in zip(quantised, found, strict=True):
        micro.set_input(window[None], 0)
        micro.invoke()
        expected = micro.get_output(0).reshape(-1).astype(np.int32)
        scale, zero_point = micro_details["scales"][0], micro_details["zero_points"][0]
        different += int((np.rint(embedding / scale).astype(np.int32) + zero_point != expected).any())
    return different, len(windows)


if __name__ == "__main__":
    main()
