"""The whole student on a stream as one program: templates beside this file with their numbers filled in."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.tasks.imu.stream import CHANNELS, HEAD, Head, StreamSettings
from profiles.errors import RequestError
from profiles.storage import atomic_file, read_json, write_json
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from targets.artifact import Artifact
    from targets.c.runtime import CSession
    from targets.firmware.query import QueryProgram
    from targets.student import Student

SOURCES = Path(__file__).parent
NAME = "activity"
LINE = 112


def write_stream(out: Path, artifact: Artifact) -> Path:
    """Write an int8 student of the runtime c as a model into `out`, which is made; gives `out`.

    Inputs: `samples` (hop, 6) int16, the sensor's counts, and `count` int32, how many of them there are (below 0: start
    anew). Outputs: `decision` int32, the class, -1 where none was due, and `scores` (classes,) float32, smoothed.
    Raises RequestError for another runtime, or an encoder that did not compile.
    """
    if artifact.runtime != "c":
        raise RequestError(f"{artifact.path}: a stream's program is written for runtime c, not for {artifact.runtime}")
    if not artifact.files("encoder"):
        raise RequestError(f"{artifact.path}: graph encoder was not compiled")
    from targets.c.generate import generate, header, translation_unit
    from targets.tflite.schema import read_model

    folder = artifact.files("encoder")[0].parent
    about = read_json(folder / "model.json")
    settings = StreamSettings.from_json(artifact.manifest["settings"])
    head = Head.load(artifact.path / "assets" / HEAD)
    _check(about, settings, head)
    model = generate(read_model(folder / "model.tflite"), about["name"])
    title = f"{artifact.student_name}, {len(settings.classes)} classes"
    write_program(out, about, settings, head, title, {"encoder.c": translation_unit([model]), "model.h": header(model)})
    return out


def write_program(
    out: Path, about: Mapping[str, Any], settings: StreamSettings, head: Head, title: str, encoder: Mapping[str, str]
) -> None:
    """The same around any encoder in C: `about` is its model.json, `encoder` its files, encoder.c among them."""
    template = Template((SOURCES / "stream_model.c").read_text(encoding="utf-8"))
    program = template.substitute(name=NAME, title=title, **_numbers(about, settings, head))
    out.mkdir(parents=True, exist_ok=True)
    for name, text in {**encoder, "model.c": program}.items():
        with atomic_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    shutil.copyfile(SOURCES / "stream.h", out / "stream.h")
    inputs = [_port("samples", "int16", 1, settings.hop, CHANNELS), _port("count", "int32", 1)]
    outputs = [_port("decision", "int32", 1), _port("scores", "float32", 1, len(settings.classes))]
    write_json(out / "model.json", {"name": NAME, "inputs": inputs, "outputs": outputs})


def _check(about: Mapping[str, Any], settings: StreamSettings, head: Head) -> None:
    (window,), (embedding,) = about["inputs"], about["outputs"]
    if window["shape"] != [1, settings.length, CHANNELS] or window["dtype"] != "int8":
        raise RequestError(f"the encoder takes {window['shape']} {window['dtype']}, a window of the stream is another")
    if int(np.prod(embedding["shape"])) != head.weight.shape[1] or embedding["dtype"] != "int8":
        raise RequestError(f"the encoder gives {embedding['shape']}, the class head takes {head.weight.shape[1]}")


def _numbers(about: Mapping[str, Any], settings: StreamSettings, head: Head) -> dict[str, Any]:
    """What the template leaves open."""
    (window,), (embedding,) = about["inputs"], about["outputs"]
    weights = ", ".join(map(str, head.weight.T.reshape(-1).tolist()))
    return {
        "encoder": about["name"],
        "length": settings.length,
        "hop": settings.hop,
        "classes": len(settings.classes),
        "features": head.weight.shape[1],
        "gain": _floats(settings.gain),
        "shift": _floats(settings.shift),
        "input_scale": _hexadecimal(window["scale"]),
        "input_zero_point": window["zero_point"],
        "output_scale": _hexadecimal(embedding["scale"]),
        "output_zero_point": embedding["zero_point"],
        "weight_type": f"{head.weight.dtype}_t",
        "weight": "\n".join(textwrap.wrap(weights, LINE)),
        "scale": _floats(head.scale),
        "bias": _floats(head.bias),
        "smoothing": _hexadecimal(settings.smoothing),
    }


def _hexadecimal(number: float) -> str:
    """A float32 as a C99 literal without its f, exactly."""
    return float(np.float32(number)).hex()


def _floats(numbers: np.ndarray) -> str:
    return ", ".join(f"{_hexadecimal(number)}f" for number in numbers)


def _port(name: str, dtype: str, *shape: int) -> dict[str, Any]:
    """An input or output as model.json describes it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return {"name": name, "dtype": dtype, "shape": list(shape), "bytes": size, "scale": None, "zero_point": None}


def on_this_machine(folder: Path) -> CSession:
    """What `write_stream` wrote, compiled by gcc for this machine: a session that keeps its state from row to row."""
    from targets.c.runtime import CSession
    from targets.graph import Graph, TensorSpec

    about = read_json(folder / "model.json")
    inputs, outputs = (
        tuple(TensorSpec(port["name"], port["dtype"], ("batch", *port["shape"][1:])) for port in about[direction])
        for direction in ("inputs", "outputs")
    )
    return CSession(Graph(about["name"], inputs, outputs), folder, "O2")


def requests(counts: np.ndarray, hop: int) -> list[bytes]:
    """A signal (t, 6) int16 as the program's inputs, `hop` samples each; what is left at the end is left out."""
    full = counts[: len(counts) // hop * hop].reshape(-1, hop * CHANNELS)
    return [row.tobytes() + np.int32(hop).tobytes() for row in np.ascontiguousarray(full)]


def query_program(
    student: Student, artifact: Artifact, arrays: Mapping[str, np.ndarray], count: int, out: Path
) -> QueryProgram:
    """See targets.firmware.query: `count` decisions on a signal of the split's windows, one after the other.

    A query is what one decision takes on a stream: the samples of a hop are scaled, the window is encoded, the class
    head answers, and scores are smoothed. Before the first one a window has to fill; that is not counted.
    """
    from targets.firmware.query import QueryProgram

    settings: StreamSettings = student.glue.settings  # type: ignore[attr-defined]
    folder = write_stream(out, artifact)
    warm_up = -(-settings.length // settings.hop) - 1  # requests before the first decision
    needed = -(-(warm_up + count) * settings.hop // settings.length)
    signals = arrays["signals"][evenly_spread(len(arrays["signals"]), needed)]
    signal = np.concatenate(list(settings.counts(np.asarray(signals))))[: (warm_up + count) * settings.hop]
    expected = student.glue.decide_counts(signal)  # type: ignore[attr-defined]

    def agrees(number: int, reply: bytes) -> bool:
        return int(np.frombuffer(reply, np.int32, 1)[0]) == expected[number - warm_up].index

    return QueryProgram(folder, requests(signal, settings.hop), agrees, warm_up)
