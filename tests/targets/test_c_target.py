"""Target c on trained networks: from a bundle to C, bit-exact with TFLite-Micro, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from profiles.device import Device, load_device
from profiles.errors import MissingError
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.c import runtime as c_runtime
from targets.c import target
from targets.firmware import BOARDS, Emulator, build
from targets.parity import compare, failure
from targets.runners import get_runner
from targets.target import CompiledGraph, get_target, list_targets
from targets.tflite.affine import dequantize, quantize
from targets.tflite.schema import Model, read_model
from tests.targets import nets, small_nets
from tests.targets.c_oracle import Library, Micro, run_sanitized
from tests.targets.tflite_builder import Node, Spec, build_graph
from tests.tools import need, need_module


@pytest.fixture(scope="module")
def device() -> Device:
    """This machine, with the runtime c."""
    host = load_device("host").model_dump(by_alias=True)
    host["runtimes"] = {"c": {"precisions": ["int8"], "options": {"optimization": "O3"}}}
    return Device.model_validate(host)


@pytest.fixture(scope="module")
def built(shape_bundle: Bundle, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    need("gcc")
    need_module("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "tflite_micro")
    return compile_bundle(shape_bundle, device, "c", "int8", tmp_path_factory.mktemp("c") / "artifact")


def file_of(artifact: Artifact) -> bytes:
    """The full-integer file that the C was made of."""
    return (artifact.files("net")[0].parent / "model.tflite").read_bytes()


def golden_integers(bundle: Bundle, name: str, model: Model, rows: int = 16) -> list[list[np.ndarray]]:
    """Golden inputs as the integers that go into the file, row by row."""
    inputs, _ = bundle.golden(name)
    found = []
    for row in range(rows):
        pairs = zip(inputs.values(), model.inputs, strict=True)
        found.append([quantize(v[row : row + 1], float(t.scale[0]), int(t.zero_point[0])) for v, t in pairs])
    return found


def test_the_target_is_found_and_takes_int8_only(shape_bundle: Bundle) -> None:
    assert "c" in list_targets() and get_target("c") is target
    for precision in ("fp32", "fp16"):
        reason = target.unsupported(shape_bundle.source("net"), precision)
        assert reason == "C for microcontrollers is int8 only: use --precision int8"
    assert target.unsupported(shape_bundle.source("net"), "int8") is None


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_runtime.shutil, "which", lambda name: None)
    with pytest.raises(MissingError, match="apt install gcc"):
        target.version()


def test_a_trained_network_is_verified_as_c(built: Artifact, shape_bundle: Bundle, device: Device) -> None:
    assert built.status == "built", built.reason
    entry = built.manifest["graphs"]["net"]
    assert entry["memory"]["arena"] == entry["build"]["arena_lower_bound"] and entry["float_operators"] == {}
    measurement = get_runner("local").measure(built, device, latency=False, splits=("validation",))
    assert Artifact.open(built.path).status == "verified"
    parity = measurement.parity("net")
    assert parity is not None and parity.sqnr_db is not None and parity.sqnr_db >= 20
    session = built.session("net")
    assert session.details["runtime"] == "c" and session.details["provider"].startswith("CPU (gcc ")
    assert session.details["threads"] == 1 and session.details["optimization"] == "O3"
    makefile = (built.files("net")[0].parent / "Makefile").read_text()
    assert "OPTIMIZATION = -O3\n" in makefile, "the artifact's own option"


def test_the_session_is_tflite_micro_with_the_border_quantised(built: Artifact, shape_bundle: Bundle) -> None:
    raw = file_of(built)
    model, micro = read_model(raw), Micro(raw)
    inputs, reference = shape_bundle.golden("net")
    outputs = built.session("net")(inputs)
    assert failure(compare(reference, outputs), "int8") is None
    scale, zero_point = float(model.outputs[0].scale[0]), int(model.outputs[0].zero_point[0])
    for row, feeds in enumerate(golden_integers(shape_bundle, "net", model)):
        expected = dequantize(micro.run(feeds)[0], scale, zero_point)
        np.testing.assert_array_equal(outputs["logits"][row : row + 1], expected)


def test_two_sessions_and_many_rows_do_not_share_memory(built: Artifact) -> None:
    images, _ = nets.shapes(70, seed=5)
    first, second = built.session("net"), built.session("net", {"optimization": "O2"})
    together = first({"canvas": images})["logits"]
    single = np.concatenate([second({"canvas": images[i : i + 1]})["logits"] for i in range(5)])
    np.testing.assert_array_equal(single, together[:5])
    np.testing.assert_array_equal(first({"canvas": images[:5]})["logits"], single)


def test_a_whole_network_is_bit_exact_and_clean_at_every_optimisation(
    built: Artifact, shape_bundle: Bundle, tmp_path: Path
) -> None:
    check_network(file_of(built), shape_bundle, "net", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", small_nets.TASKS)
def test_the_four_small_networks_are_bit_exact_clean_and_the_same_on_every_core(
    small_bundle: Callable[[str], Bundle], name: str, tmp_path: Path
) -> None:
    need("gcc")
    need_module("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "tflite_micro")
    compiled = target.compile(small_bundle(name).source(name), tmp_path, "int8", {})
    assert compiled.problem is None
    check_network((tmp_path / "model.tflite").read_bytes(), small_bundle(name), name, tmp_path)
    need("qemu-system-arm", "arm-none-eabi-gcc")
    for core in BOARDS:
        check_on_core(tmp_path, small_bundle(name), name, core, tmp_path)


@pytest.mark.parametrize("core", ["m3", "m4", "m55"])  # plain C, DSP, Helium
def test_a_whole_network_gives_tflite_micros_bytes_with_every_kind_of_kernel(
    built: Artifact, shape_bundle: Bundle, core: str, tmp_path: Path
) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc")
    check_on_core(built.files("net")[0].parent, shape_bundle, "net", core, tmp_path)


def check_on_core(folder: Path, bundle: Bundle, name: str, core: str, out: Path) -> None:
    """Golden inputs and noise give TFLite-Micro's bytes at -O3 on an emulated core."""
    raw = (folder / "model.tflite").read_bytes()
    model, micro = read_model(raw), Micro(raw)
    feeds = golden_integers(bundle, name, model, rows=4)
    rng = np.random.default_rng(0)
    feeds += [[rng.integers(-128, 128, t.shape).astype(np.int8) for t in model.inputs] for _ in range(4)]
    with Emulator(build(folder, core, "O3", out / core)) as board:
        for row in feeds:
            request = b"".join(value.tobytes() for value in row)
            assert board.ask(request) == b"".join(output.tobytes() for output in micro.run(row))


def check_network(raw: bytes, bundle: Bundle, name: str, folder: Path) -> None:
    """Golden inputs and noise: the same bytes as TFLite-Micro at -O2, -O3 and under sanitizers, in a smaller arena."""
    model, micro = read_model(raw), Micro(raw)
    feeds = golden_integers(bundle, name, model)
    rng = np.random.default_rng(0)
    feeds += [[rng.integers(-128, 128, t.shape).astype(np.int8) for t in model.inputs] for _ in range(8)]
    expected = [b"".join(output.tobytes() for output in micro.run(row)) for row in feeds]
    for flag in ("-O2", "-O3"):
        part = folder / flag
        part.mkdir()
        library = Library([raw], part, (flag,))
        assert [b"".join(output.tobytes() for output in library.run(0, row)) for row in feeds] == expected
        assert library.models[0].arena_bytes < micro.arena_bytes()
    part = folder / "sanitized"
    part.mkdir()
    assert run_sanitized([raw] * 3, feeds[-3:], part) == expected[-3:]


def test_unsupported_operators_become_the_reason_of_the_graph(
    shape_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the converter leaves is known only after the conversion: nothing is written then."""
    x, y, z = (Spec(shape, scale=0.05, name="packed") for shape in ((1, 4, 4, 4), (1, 2, 2, 16), (1, 1, 1, 64)))
    nodes = [Node("SPACE_TO_DEPTH", [a], [b], {"blockSize": 2}) for a, b in ((x, y), (y, z))]

    def convert(source: object, out: Path, options: object) -> CompiledGraph:
        (out / "model.tflite").write_bytes(build_graph(nodes))
        return CompiledGraph(("model.tflite",), "int8")

    monkeypatch.setattr("targets.tflite.compile_int8", convert)
    compiled = target.compile(shape_bundle.source("net"), tmp_path, "int8", {})
    assert compiled.problem is not None and compiled.problem.count("SPACE_TO_DEPTH") == 2
    assert compiled.files == () and not list(tmp_path.iterdir())
