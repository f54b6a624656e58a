"""Target tflite on trained networks: parity in each precision, full-integer files, and TFLite-Micro beside LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from profiles.errors import RequestError
from targets.bundle import Bundle
from targets.parity import compare, failure
from targets.target import get_target
from targets.tflite.affine import dequantize, quantize
from targets.tflite.quantize import static_int8
from targets.tflite.schema import FLOATS, read_model
from tests.tools import need_module

need_module("litert_torch", "ai_edge_quantizer", "ai_edge_litert")
TARGET = get_target("tflite")
NETWORKS = ("image", "imu", "gru", "keyword")
LSB = 3


def micro(raw: bytes, values: list[np.ndarray]) -> list[np.ndarray]:
    """One call of TFLite-Micro's reference kernels."""
    need_module("tflite_micro")
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(raw, arena_size=1 << 20)
    for i, value in enumerate(values):
        interpreter.set_input(value, i)
    interpreter.invoke()
    return [interpreter.get_output(i) for i in range(len(read_model(raw).outputs))]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trained_network_in_full_int8_has_no_float_operator_and_20_db(
    small_bundle: Callable[[str], Bundle], small_int8: Callable[[str], Path], name: str
) -> None:
    bundle, path = small_bundle(name), small_int8(name)
    model = read_model(path)
    assert not model.float_operators()
    assert {tensor.dtype for tensor in (*model.inputs, *model.outputs)} == {"int8"}
    graph = bundle.graphs[name]
    assert [t.name for t in model.inputs] == [s.name for s in graph.inputs]
    assert [t.name for t in model.outputs] == [s.name for s in graph.outputs]
    inputs, reference = bundle.golden(name)
    parity = compare(reference, TARGET.open(graph, (path,), "int8", {"threads": 1})(inputs))
    assert failure(parity, "int8") is None, parity


@pytest.mark.parametrize("name", NETWORKS)
def test_tflite_micro_gives_what_litert_gives_within_3_steps(
    small_bundle: Callable[[str], Bundle], small_int8: Callable[[str], Path], name: str
) -> None:
    bundle, path = small_bundle(name), small_int8(name)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    model = read_model(path)
    inputs, _ = bundle.golden(name)
    for row in range(8):
        feeds = [quantize(inputs[t.name][row : row + 1], t.scale[0], int(t.zero_point[0])) for t in model.inputs]
        for entry, value in zip(interpreter.get_input_details(), feeds, strict=True):
            interpreter.set_tensor(entry["index"], value)
        interpreter.invoke()
        for entry, value in zip(interpreter.get_output_details(), micro(path.read_bytes(), feeds), strict=True):
            assert np.abs(interpreter.get_tensor(entry["index"]).astype(int) - value.astype(int)).max() <= LSB


@pytest.mark.parametrize("bundle_name", ["shape_bundle", "words_bundle"])
def test_dynamic_range_keeps_float_inputs_and_int8_weights(
    bundle_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(bundle_name)
    compiled = TARGET.compile(bundle.source("net"), tmp_path, "int8", {"quantization": "dynamic"})
    model = read_model(tmp_path / "model.tflite")
    assert "int8" not in {t.dtype for t in (*model.inputs, *model.outputs)}
    weights = [t for t in model.tensors if t.is_constant and t.dtype in (*FLOATS, "int8") and t.size > 64]
    assert weights and all(t.dtype == "int8" for t in weights)
    assert compiled.quantization["quantized_operators"] == (
        {"DEPTHWISE_CONV_2D": 4, "CONV_2D": 3, "FULLY_CONNECTED": 1}
        if bundle_name == "shape_bundle"
        else {"EMBEDDING_LOOKUP": 1, "FULLY_CONNECTED": 1}
    )
    inputs, reference = bundle.golden("net")
    session = TARGET.open(bundle.graphs["net"], (tmp_path / "model.tflite",), "int8", {"threads": 1})
    assert failure(compare(reference, session(inputs)), "int8") is None


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_two_inputs_and_two_outputs_pass_in_lower_precisions(
    pair_bundle: Bundle, tmp_path: Path, precision: str
) -> None:
    compiled = TARGET.compile(pair_bundle.source("net"), tmp_path, precision, {})
    assert compiled.problem is None
    inputs, reference = pair_bundle.golden("net")
    outputs = TARGET.open(pair_bundle.graphs["net"], (tmp_path / "model.tflite",), precision, {})(inputs)
    assert list(outputs) == ["joined", "score"]
    assert failure(compare(reference, outputs), precision) is None


def test_trap_1_ranges_are_the_smallest_and_largest_values_not_an_average(tmp_path: Path) -> None:
    """99 samples within +-1 and one of 10: an average over the samples would clip the last one to about 1.5."""
    module = nn.Linear(4, 4).eval()
    samples = np.random.default_rng(0).uniform(-1, 1, (100, 4)).astype(np.float32)
    samples[-1] = 10
    model = read_model(static_int8(float_file(module, samples[:1]), {"x": samples}))
    (given,) = model.inputs
    assert given.scale[0] == pytest.approx((10 - samples.min()) / 255, rel=1e-3)
    assert dequantize(np.array([127], np.int8), given.scale[0], int(given.zero_point[0]))[0] == pytest.approx(10, 0.01)


def test_trap_2_weights_beyond_256_kib_reach_tflite_micro(tmp_path: Path) -> None:
    """Buffers outside the flatbuffer are zeros to TFLite-Micro: its outputs would all be the bias."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 4800), nn.ReLU(), nn.Linear(4800, 8)).eval()
    samples = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    raw = static_int8(float_file(module, samples[:1]), {"x": samples})
    assert sum(t.bytes for t in read_model(raw).tensors if t.is_constant) > 256 * 1024
    (given,), (made,) = read_model(raw).inputs, read_model(raw).outputs
    found = micro(raw, [quantize(samples[:1], given.scale[0], int(given.zero_point[0]))])[0]
    expected = module(torch.from_numpy(samples[:1])).detach().numpy()
    parity = compare({"y": expected}, {"y": dequantize(found, made.scale[0], int(made.zero_point[0]))})
    assert failure(parity, "int8") is None, parity


def test_a_bias_far_above_its_channel_s_weights_keeps_its_value(tmp_path: Path) -> None:
    """Pretrained networks have channels that are all but dead: in steps of weights of 1e-9 their bias passes int32."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    with torch.no_grad():
        module[0].weight[:2] *= 1e-9
        module[0].weight[2] = 0
        module[0].bias[:3] = torch.tensor([2.0, 1.0, 0.5])
    samples = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    raw = static_int8(float_file(module, samples[:1]), {"x": samples})
    biases = [o.inputs[2].data for o in read_model(raw).operators if o.kind == "FULLY_CONNECTED"]  # type: ignore[union-attr]
    assert max(int(np.abs(bias.astype(np.int64)).max()) for bias in biases) <= 2**30
    (given,), (made,) = read_model(raw).inputs, read_model(raw).outputs
    rows = [micro(raw, [quantize(row[None], given.scale[0], int(given.zero_point[0]))])[0] for row in samples[:16]]
    found = dequantize(np.concatenate(rows), made.scale[0], int(made.zero_point[0]))
    expected = module(torch.from_numpy(samples[:16])).detach().numpy()
    parity = compare({"y": expected}, {"y": found})
    assert failure(parity, "int8") is None, parity


def test_trap_10_activations_of_16_bits_are_not_offered(shape_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="quantization: '16x8' is not one of full, dynamic"):
        TARGET.compile(shape_bundle.source("net"), tmp_path, "int8", {"quantization": "16x8"})


def test_an_integer_that_does_not_fit_32_bits_is_refused(words_bundle: Bundle, tmp_path: Path) -> None:
    TARGET.compile(words_bundle.source("net"), tmp_path, "fp32", {})
    session = TARGET.open(words_bundle.graphs["net"], (tmp_path / "model.tflite",), "fp32", {})
    with pytest.raises(ValueError, match="does not fit"):
        session({"ids": np.full((1, 7), 2**40)})


def test_half_precision_that_overflows_is_a_problem_of_the_artifact(tmp_path: Path) -> None:
    """x * 300 * 300 leaves float16 at 65504, and comes back by / 1000: the CPU computes in float32 and hides it."""
    from tests.targets.conftest import write_single

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            nn.init.eye_(self.up.weight).data.mul_(300.0)
            nn.init.eye_(self.down.weight).data.mul_(1e-3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(self.up(self.up(x)))

    samples = np.random.default_rng(0).uniform(1, 2, (4, 4)).astype(np.float32)
    bundle = write_single(tmp_path / "b", Loud().eval(), {"x": samples}, ("y",))
    out = tmp_path / "out"
    out.mkdir()
    compiled = TARGET.compile(bundle.source("net"), out, "fp16", {})
    assert compiled.problem is not None and "overflows in half precision" in compiled.problem
    assert "compute in float32" in compiled.notes[0]


def float_file(module: nn.Module, sample: np.ndarray) -> bytes:
    """A module of one input x and one output y as a float file."""
    from targets.graph import Graph, TensorSpec
    from targets.tflite.convert import convert_module

    graph = Graph(
        "net", (TensorSpec("x", "float32", ("batch", *sample.shape[1:])),), (TensorSpec("y", "float32", ("batch",)),)
    )
    with torch.no_grad():
        program = torch.export.export(module, (torch.from_numpy(sample),))
    return convert_module(program.module(), graph, {"x": sample.shape})


def test_without_litert_the_session_takes_tflite_runtime(
    shape_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its interpreter has the same interface; where neither is there, the extra is named."""
    import sys
    from importlib import metadata

    from ai_edge_litert import interpreter

    from profiles.errors import MissingError
    from targets.tflite import session

    TARGET.compile(shape_bundle.source("net"), tmp_path, "fp32", {})
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingError, match=r"ai_edge_litert is not installed: .*\[tflite\]"):
        TARGET.version()
    monkeypatch.setitem(sys.modules, "tflite_runtime", sys)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", interpreter)
    monkeypatch.setattr(session, "version", lambda name: {"tflite-runtime": "2.14.0"}[name])
    opened = TARGET.open(shape_bundle.graphs["net"], (tmp_path / "model.tflite",), "fp32", {"threads": 1})
    assert opened.details["package"] == "tflite-runtime 2.14.0"
    assert TARGET.version() == "2.14.0" and metadata.version("ai-edge-litert")
    inputs, reference = shape_bundle.golden("net")
    assert failure(compare(reference, opened(inputs)), "fp32") is None
