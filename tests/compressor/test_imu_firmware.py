"""The activity recogniser on a stream: generated C decides as the numpy glue does, on the host and emulated cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor.tasks.imu.firmware import on_this_machine, query_program, write_stream
from compressor.tasks.imu.stream import Head, StreamSettings
from profiles.errors import RequestError
from profiles.storage import read_json
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.firmware import build
from targets.firmware.query import program_writer, whole_query
from targets.tflite.affine import quantize
from tests.targets.c_oracle import check_bit_exact
from tests.tools import need, need_module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_tools")]  # each network is converted once
CLASSES = ("walking", "sitting", "lying")
SETTINGS = StreamSettings(CLASSES, scale=(9.8,) * 3 + (2.0,) * 3, offset=(4.9, 0, 0, 0, 0, 0), smoothing=0.4)
M4_LIMITS = {"tiny-imu": (48 * 1024, 8 * 1024, 1_000_000), "tiny-imu-16": (16 * 1024, 4 * 1024, 300_000)}


@pytest.fixture(scope="module")
def _tools() -> None:
    need("gcc", "qemu-system-arm", "arm-none-eabi-gcc")
    need_module("litert_torch", "ai_edge_quantizer")


def walk(samples: int, seed: int = 0) -> np.ndarray:
    """A made-up signal (6, t) in m/s2 and rad/s that changes its character every few seconds."""
    rng = np.random.default_rng(seed)
    pieces = []
    while sum(piece.shape[1] for piece in pieces) < samples:
        t = np.arange(rng.integers(100, 900)) / 50
        swing = rng.uniform(0, 6, (6, 1)) * np.sin(2 * np.pi * rng.uniform(0.3, 4, (6, 1)) * t)
        lean = np.concatenate([rng.normal(0, 6, (3, 1)), np.zeros((3, 1))])
        pieces.append(lean + swing * np.array([[1], [1], [1], [0.4], [0.4], [0.4]]) + rng.normal(0, 0.2, (6, len(t))))
    return np.concatenate(pieces, axis=1)[:, :samples].astype(np.float32)


def make_artifact(folder: Path, network: str) -> None:
    """A random student of the real network, compiled to C."""
    import torch

    from compressor.data.imu_windows import Windows, cut
    from compressor.models.imu_encoder import ImuEncoder
    from compressor.tasks.imu.export import export_student
    from profiles.device import load_device
    from targets.export import BundleWriter

    torch.manual_seed(0)
    encoder = ImuEncoder(network)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    signals = np.ascontiguousarray(cut(walk(6400), 64))
    with torch.no_grad():
        encoder.train()
        for _ in range(10):
            encoder(torch.from_numpy(SETTINGS.windows(SETTINGS.counts(signals)).transpose(0, 2, 1).copy()))
        encoder.eval()
    rng = np.random.default_rng(0)
    head = Head.quantise(rng.standard_normal((len(CLASSES), encoder.num_features)), np.zeros(len(CLASSES)))
    labels = rng.integers(0, len(CLASSES), len(signals))
    windows = Windows(signals, 50.0, np.array(["a"] * len(signals)), labels, CLASSES)
    with BundleWriter(folder / "bundle", student=network, task="imu", glue="imu", random_weights=True) as writer:
        export_student(writer, encoder, SETTINGS, head, {"validation": windows, "test": windows}, windows)
    compile_bundle(Bundle.open(folder / "bundle"), load_device("cortex-m4"), "c", "int8", folder / "artifact")


@pytest.fixture(scope="module", params=list(M4_LIMITS))
def artifact(request: pytest.FixtureRequest, shared: Callable[[str, Callable[[Path], object]], Path]) -> Artifact:
    network = request.param

    def make(folder: Path) -> None:
        folder.mkdir()
        make_artifact(folder, network)

    return Artifact.open(shared(f"imu-{network}", make) / "artifact")


@pytest.fixture
def program(artifact: Artifact, tmp_path: Path) -> Path:
    return write_stream(tmp_path / "program", artifact)


@pytest.mark.parametrize("artifact", ["tiny-imu"], indirect=True)
def test_c_and_numpy_decide_alike_on_hours_of_signal(artifact: Artifact, program: Path) -> None:
    counts = SETTINGS.counts(walk(2 * 3600 * 50))
    expected = artifact.student().glue.decide_counts(counts)  # type: ignore[attr-defined]
    hops = counts.reshape(-1, SETTINGS.hop, 6)
    found = on_this_machine(program)({"samples": hops, "count": np.full(len(hops), SETTINGS.hop, np.int32)})
    decisions = found["decision"].tolist()
    assert decisions[:2] == [-1, -1] and len(expected) == len(hops) - 2
    assert decisions[2:] == [decision.index for decision in expected]
    assert np.array_equal(found["scores"][2:], [decision.scores for decision in expected])
    assert min(np.bincount(decisions[2:], minlength=len(CLASSES))) > 100  # it was not one answer to everything


@pytest.mark.parametrize("artifact", ["tiny-imu"], indirect=True)
def test_a_stream_decides_alike_however_its_samples_arrive(artifact: Artifact, program: Path) -> None:
    counts = SETTINGS.counts(walk(3000, seed=1))
    rng = np.random.default_rng(0)
    stream, session = artifact.student().glue.stream(), on_this_machine(program)  # type: ignore[attr-defined]
    expected = artifact.student().glue.decide_counts(counts)  # type: ignore[attr-defined]
    for _ in range(2):
        start, pushed, asked = 0, [], []
        while start < len(counts):
            part = counts[start : start + rng.integers(1, SETTINGS.hop + 1)]
            start += len(part)
            pushed += stream.push(part)
            samples = np.zeros((1, SETTINGS.hop, 6), np.int16)
            samples[0, : len(part)] = part
            found = session({"samples": samples, "count": np.array([len(part)], np.int32)})
            asked += [int(found["decision"][0])] if found["decision"][0] >= 0 else []
        assert asked == [decision.index for decision in pushed] == [decision.index for decision in expected]
        assert [decision.end for decision in pushed] == [decision.end for decision in expected]
        stream.restart()
        session({"samples": np.zeros((1, SETTINGS.hop, 6), np.int16), "count": np.array([-1], np.int32)})


def test_the_encoder_gives_tflite_micro_s_bytes_on_every_window(artifact: Artifact, tmp_path: Path) -> None:
    need_module("tflite_micro")
    folder = artifact.files("encoder")[0].parent
    scale, zero_point = (read_json(folder / "model.json")["inputs"][0][key] for key in ("scale", "zero_point"))
    windows = SETTINGS.windows(SETTINGS.counts(artifact.split("test")["signals"]))
    quantised = iter(quantize(windows, scale, zero_point))
    check_bit_exact(
        [(folder / "model.tflite").read_bytes()],
        tmp_path,
        len(windows),
        lambda model, rng: [next(quantised)[None]],
    )


@pytest.mark.parametrize("core", ["m4", "m33", "m55"])
@pytest.mark.parametrize("artifact", ["tiny-imu"], indirect=True)
def test_emulated_cores_decide_as_the_glue_does(artifact: Artifact, core: str, tmp_path: Path) -> None:
    student, arrays = artifact.student(), artifact.split("validation")
    program = query_program(student, artifact, arrays, 20, tmp_path / "program")
    found = whole_query(program, build(program.folder, core, "O2", tmp_path / core), 0, 60)
    assert found.queries == 20 and found.agreed == 20


def test_encoder_and_glue_fit_their_microcontroller(artifact: Artifact, tmp_path: Path) -> None:
    """Flash, RAM, and counted instructions of one decision, glue and all, against the limits of each size."""
    flash_limit, ram_limit, instruction_limit = M4_LIMITS[artifact.student_name]
    program = query_program(artifact.student(), artifact, artifact.split("validation"), 8, tmp_path / "program")
    firmware = build(program.folder, "m4", "O2", tmp_path / "m4")
    found = whole_query(program, firmware, 0, 60)
    assert firmware.flash_bytes <= flash_limit
    assert firmware.ram_bytes + found.memory["stack"] <= ram_limit
    assert found.instructions is not None and found.instructions <= instruction_limit


def test_the_bench_finds_the_task_s_program() -> None:
    assert program_writer("imu") is query_program


@pytest.mark.parametrize("artifact", ["tiny-imu"], indirect=True)
def test_an_artifact_of_another_runtime_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    artifact.manifest["runtime"] = "tflite"
    with pytest.raises(RequestError, match="written for runtime c"):
        write_stream(tmp_path, artifact)
