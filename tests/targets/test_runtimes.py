"""The runtimes for processors, each in three precisions, on small real networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from profiles.errors import RequestError
from targets.bundle import Bundle
from targets.graph import Graph, TensorSpec
from targets.parity import FP32_LIMIT, compare, failure
from targets.quantize import saturates
from targets.target import GraphSource, Target, get_target, list_targets
from tests.targets import nets

RUNTIMES = ("onnx", "openvino", "tflite")
PRECISIONS = ("fp32", "fp16", "int8")
Compiled = Callable[..., Any]


@pytest.fixture(scope="module")
def compiled(shape_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """compiled(runtime, precision) -> (CompiledGraph, files), each made once."""
    made: dict[tuple[str, str], Any] = {}

    def get(runtime: str, precision: str) -> Any:
        if (runtime, precision) not in made:
            out = tmp_path_factory.mktemp(f"{runtime}-{precision}")
            result = get_target(runtime).compile(shape_bundle.source("net"), out, precision, {"threads": 1})
            made[runtime, precision] = result, tuple(out / file for file in result.files)
        return made[runtime, precision]

    return get


def test_the_shipped_runtimes_are_found_and_an_unknown_one_is_named() -> None:
    assert set(RUNTIMES) <= set(list_targets())
    assert all(isinstance(get_target(name), Target) for name in list_targets())
    with pytest.raises(RequestError, match="did you mean openvino"):
        get_target("openvno")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_trained_network_passes_parity_in_every_precision(
    shape_bundle: Bundle, compiled: Compiled, runtime: str, precision: str
) -> None:
    result, files = compiled(runtime, precision)
    assert result.precision == precision and result.problem is None
    session = get_target(runtime).open(shape_bundle.graphs["net"], files, precision, {"threads": 1})
    inputs, reference = shape_bundle.golden("net")
    parity = compare(reference, session(inputs))
    assert failure(parity, precision) is None, parity
    assert parity.agreement is not None and parity.agreement >= 0.95
    assert session.details["threads"] == 1 and "CPU" in session.details["provider"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_fp32_is_not_computed_in_bf16(shape_bundle: Bundle, compiled: Compiled, runtime: str) -> None:
    """bf16 has 8 bits of mantissa: it would differ by about 4e-3, a hundred times this limit."""
    session = get_target(runtime).open(shape_bundle.graphs["net"], compiled(runtime, "fp32")[1], "fp32", {"threads": 1})
    inputs, reference = shape_bundle.golden("net")
    parity = compare(reference, session(inputs))
    assert parity.worst is not None and parity.worst < FP32_LIMIT / 2
    if runtime == "openvino":
        assert session.details["executed_float"] == "float32"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_row_many_rows_and_both_in_turn_are_the_same(
    shape_bundle: Bundle, compiled: Compiled, runtime: str
) -> None:
    session = get_target(runtime).open(shape_bundle.graphs["net"], compiled(runtime, "fp32")[1], "fp32", {"threads": 1})
    images, _ = nets.shapes(130, seed=5)  # more than one chunk
    together = session({"canvas": images})["logits"]
    single = np.concatenate([session({"canvas": images[i : i + 1]})["logits"] for i in range(5)])
    assert together.shape == (130, nets.CLASSES)
    np.testing.assert_allclose(single, together[:5], atol=1e-5)
    np.testing.assert_array_equal(session({"canvas": images})["logits"], together)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_lower_precision_takes_less_space_for_the_weights(compiled: Compiled, runtime: str) -> None:
    """With batch norms folded into biases: stem, then depthwise and pointwise in turn, head."""
    convolutions = 16 * 9 + (16 * 9 + 16 * 32) + (32 * 9 + 32 * 32) + (32 * 9 + 32 * 64)
    parameters = convolutions + (16 + 16 + 32 + 32 + 32 + 32 + 64) + (64 * 4 + 4)
    weights = {p: sum(f.stat().st_size for f in compiled(runtime, p)[1] if f.suffix != ".xml") for p in PRECISIONS}
    assert weights["fp32"] >= 4 * parameters
    # TFLite keeps biases in float32, and a conversion per layer stands in the same file
    assert weights["fp32"] - weights["fp16"] == pytest.approx(2 * parameters, rel=0.15 if runtime == "tflite" else 0.1)
    if runtime == "openvino":
        assert weights["int8"] < weights["fp16"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_runs_every_layer_with_weights_in_int8_and_says_what_stayed_float(
    compiled: Compiled, runtime: str
) -> None:
    """8 layers have weights: stem, three times depthwise and pointwise, head."""
    result, _ = compiled(runtime, "int8")
    layers = {"QLinearConv", "QGemm", "Convolution", "FullyConnected"}
    layers |= {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    assert sum(n for name, n in result.quantization["quantized_operators"].items() if name in layers) == 8
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", *layers} & set(result.float_operators)
    assert result.quantization["samples"] == 128


def test_onnx_int8_kernels_do_what_the_quantised_graph_says(shape_bundle: Bundle, compiled: Compiled) -> None:
    """The Q/DQ graph evaluated literally in float (onnx.reference) is what the integer kernels must give: on processors
    that saturate they would not."""
    _, files = compiled("onnx", "int8")
    session = get_target("onnx").open(shape_bundle.graphs["net"], files, "int8", {"threads": 1})
    inputs, _ = shape_bundle.golden("net")
    feeds = {"canvas": inputs["canvas"][:4]}
    literal = ReferenceEvaluator(onnx.load(files[0])).run(None, feeds)[0]
    parity = compare({"logits": literal}, session(feeds))
    assert parity.sqnr_db is not None and parity.sqnr_db > 35  # rounding of single steps, no saturation


def test_reduced_range_is_for_processors_that_saturate(shape_bundle: Bundle, tmp_path: Path) -> None:
    result = get_target("onnx").compile(shape_bundle.source("net"), tmp_path, "int8", {"reduce_range": True})
    assert result.quantization["weights"] == "int8 of 7 bits"
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights if w.dtype == np.int8) <= 64
    assert isinstance(saturates(), bool)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_several_inputs_and_outputs_keep_their_names(pair_bundle: Bundle, tmp_path: Path, runtime: str) -> None:
    result = get_target(runtime).compile(pair_bundle.source("net"), tmp_path, "fp32", {})
    files = tuple(tmp_path / file for file in result.files)
    session = get_target(runtime).open(pair_bundle.graphs["net"], files, "fp32", {})
    inputs, reference = pair_bundle.golden("net")
    outputs = session({"numbers": inputs["numbers"], "image": inputs["image"]})  # the order of feeds does not matter
    assert list(outputs) == ["joined", "score"]
    assert failure(compare(reference, outputs), "fp32") is None
    with pytest.raises(ValueError, match="numbers"):
        session({"image": inputs["image"]})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_integer_inputs_work_in_every_precision(
    words_bundle: Bundle, tmp_path: Path, runtime: str, precision: str
) -> None:
    assert words_bundle.graphs["net"].inputs[0].dtype == "int64"
    result = get_target(runtime).compile(words_bundle.source("net"), tmp_path, precision, {})
    files = tuple(tmp_path / file for file in result.files)
    session = get_target(runtime).open(words_bundle.graphs["net"], files, precision, {})
    inputs, reference = words_bundle.golden("net")
    parity = compare(reference, session(inputs))
    assert failure(parity, precision) is None, parity
    assert session({"ids": inputs["ids"].astype(np.int32)})["embedding"].shape == (16, 8)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_without_calibration_is_refused(shape_bundle: Bundle, tmp_path: Path, runtime: str) -> None:
    source = shape_bundle.source("net")
    bare = GraphSource(source.graph, source.onnx)
    with pytest.raises(RequestError, match="int8 needs real inputs"):
        get_target(runtime).compile(bare, tmp_path, "int8", {})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_unknown_or_mistyped_option_is_refused_by_name(shape_bundle: Bundle, tmp_path: Path, runtime: str) -> None:
    with pytest.raises(RequestError, match="'thread'"):
        get_target(runtime).compile(shape_bundle.source("net"), tmp_path, "fp32", {"thread": 2})
    with pytest.raises(RequestError, match="threads"):
        get_target(runtime).open(
            shape_bundle.graphs["net"], (shape_bundle.source("net").onnx,), "fp32", {"threads": "2"}
        )


def test_an_option_that_is_none_of_the_words_is_refused(shape_bundle: Bundle, tmp_path: Path) -> None:
    for runtime, options in (("onnx", {"activation_type": "int4"}), ("openvino", {"preset": "fast"})):
        with pytest.raises(RequestError, match=f"runtime option {next(iter(options))}: .* is not one of"):
            get_target(runtime).compile(shape_bundle.source("net"), tmp_path, "int8", options)


def test_attention_and_sums_with_constants_stay_float_in_onnx_int8(words_bundle: Bundle, tmp_path: Path) -> None:
    """Words has three matrix products: two of computed matrices, one with weights."""
    result = get_target("onnx").compile(words_bundle.source("net"), tmp_path, "int8", {})
    assert result.float_operators["MatMul"] + result.float_operators.get("FusedMatMul", 0) == 2
    assert sum(result.quantization["quantized_operators"].values()) == 1


def test_a_fixed_batch_is_run_piece_by_piece() -> None:
    from targets.session import GraphSession

    class Doubling(GraphSession):
        def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert feeds["x"].shape == (3, 2), "the runtime was given another batch than it was built for"
            return {"y": feeds["x"] * 2}

    graph = Graph("g", (TensorSpec("x", "float32", (3, 2)),), (TensorSpec("y", "float32", (3, 2)),))
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.testing.assert_array_equal(Doubling(graph, {})({"x": x})["y"], x * 2)


def test_telemetry_stays_off() -> None:
    import sys

    get_target("openvino").version()
    assert sys.modules.get("openvino_telemetry") is None


def test_a_gemm_with_a_bias_of_one_row_can_be_quantised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 5), (1, 5)))
    x, y = (onnx.helper.make_tensor_value_info(n, 1, ["batch", s]) for n, s in (("x", 8), ("y", 5)))
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in (("w", weight), ("b", bias))]
    body = onnx.helper.make_graph([onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"])], "g", [x], [y], constants)
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "g.onnx")
    graph = Graph("g", (TensorSpec("x", "float32", ("batch", 8)),), (TensorSpec("y", "float32", ("batch", 5)),))
    feeds = {"x": rng.standard_normal((64, 8)).astype(np.float32)}
    (tmp_path / "out").mkdir()
    source = GraphSource(graph, tmp_path / "g.onnx", calibration=feeds)
    result = get_target("onnx").compile(source, tmp_path / "out", "int8", {})
    outputs = get_target("onnx").open(graph, (tmp_path / "out/model.onnx",), "int8", {})(feeds)
    assert result.quantization["quantized_operators"] == {"QGemm": 1}
    assert failure(compare({"y": feeds["x"] @ weight + bias}, outputs), "int8") is None
