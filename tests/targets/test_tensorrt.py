"""TensorRT: engines are built without a GPU, and never called more than built; what needs one says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_static

from profiles.device import Device
from profiles.errors import MissingError, RequestError
from targets.artifact import compile_bundle
from targets.bundle import Bundle
from targets.graph import Graph, TensorSpec
from targets.qdq import _Reader
from targets.target import GraphSource, get_target
from targets.tensorrt.cuda import device_count
from tests.tools import need_module

PRECISIONS = ("fp32", "fp16", "int8")
NO_GPU = "no NVIDIA GPU on this machine"


def device(runtime: str, **options: object) -> Device:
    runtimes = {runtime: {"precisions": list(PRECISIONS), "options": options}}
    return Device.model_validate({"name": "card", "class": "gpu", "summary": "A card", "runtimes": runtimes})


def build(onnx_file: Path, out: Path, graph: Graph, *capabilities: str) -> dict:
    need_module("tensorrt_rtx")
    import tensorrt_rtx

    from targets.tensorrt.engine import build_engine

    return build_engine(
        tensorrt_rtx,
        onnx_file,
        out,
        graph,
        compute_capabilities=capabilities,
        batch=(1, 4, 16),
        workspace_bytes=1 << 28,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_is_built_in_the_precision_asked_for_and_its_arithmetic_is_proven(
    shape_bundle: Bundle, tmp_path: Path, precision: str
) -> None:
    need_module("tensorrt_rtx")
    result = get_target("tensorrt-rtx").compile(shape_bundle.source("net"), tmp_path, precision, {})
    assert result.files == ("model.engine",) and [path.name for path in tmp_path.iterdir()] == ["model.engine"]
    assert result.precision == precision and result.problem is None
    facts = result.build
    types, numerics = facts["tensor_types"], facts["numerics"]
    assert numerics["failure"] is None and numerics["by"]
    assert facts["compute_capabilities"] == ["SM86", "SM89", "SM120"] and facts["tf32"] is False
    assert facts["batch"] == [1, 8, 64]
    assert all(value > 0 for value in facts["memory_bytes"].values())
    if precision == "fp32":
        assert set(types) == {"float"} and facts["qdq"] == 0
    elif precision == "fp16":
        assert types["half"] > types.get("float", 0) and facts["qdq"] == 0
    else:  # 8 layers have weights: a pair on each one's input and on its weights, at least
        assert types["int8"] >= 8 and facts["qdq"] >= 32
        assert result.quantization["samples"] == 128


def test_a_build_repeats(shape_bundle: Bundle, tmp_path: Path) -> None:
    """The same size, types, Q/DQ layers and memory. Not always the same bytes: names inside carry a counter."""
    need_module("tensorrt_rtx")
    card = device("tensorrt-rtx", compute_capabilities=["SM86"])
    made = [compile_bundle(shape_bundle, card, "tensorrt-rtx", "int8", tmp_path / name) for name in "ab"]
    facts = [artifact.manifest["graphs"]["net"]["build"] for artifact in made]
    assert facts[0] == facts[1] and made[0].bytes == made[1].bytes


@pytest.mark.parametrize("fixture", ("pair_bundle", "words_bundle"))
def test_several_inputs_and_integer_inputs_are_built(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(fixture).source("net")
    assert build(source.onnx, tmp_path / "model.engine", source.graph, "SM89")["memory_bytes"]["weights"] > 0


def test_an_artifact_is_built_and_never_verified_without_a_gpu(shape_bundle: Bundle, tmp_path: Path) -> None:
    need_module("tensorrt_rtx")
    if device_count():
        pytest.skip("there is a GPU on this machine")
    artifact = compile_bundle(shape_bundle, device("tensorrt-rtx"), "tensorrt-rtx", "fp16", tmp_path / "artifact")
    assert artifact.status == "built" and artifact.reason is not None
    assert NO_GPU in artifact.reason and "compressor verify" in artifact.reason
    entry = artifact.manifest["graphs"]["net"]
    assert entry["parity"] is None and entry["build"]["version"]
    with pytest.raises(MissingError, match="no NVIDIA GPU"):
        artifact.session("net")


def test_an_engine_for_jetson_is_deferred_with_the_command_to_run_there(shape_bundle: Bundle, tmp_path: Path) -> None:
    if device_count():
        pytest.skip("there is a GPU on this machine")
    artifact = compile_bundle(shape_bundle, device("tensorrt"), "tensorrt", "int8", tmp_path / "artifact")
    assert artifact.status == "deferred" and artifact.reason is not None and "trtexec" in artifact.reason
    script, model = (tmp_path / "artifact/graphs/net" / name for name in ("build.sh", "model.onnx"))
    assert "--minShapes=canvas:1x1x16x16 --optShapes=canvas:8x1x16x16" in script.read_text()
    kinds = [node.op_type for node in onnx.load(model).graph.node]
    assert "QuantizeLinear" in kinds  # packed in the precision asked for


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    node = helper.make_node("MyOwnOp", ["x"], ["y"], name="strange", domain="mine")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=imports), tmp_path / "m.onnx")
    graph = Graph("g", (TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 4)),))
    with pytest.raises(RuntimeError, match="MyOwnOp"):
        build(tmp_path / "m.onnx", tmp_path / "e", graph, "SM86")


def test_fp8_for_a_gpu_that_has_none_is_refused_with_the_builders_reason(tmp_path: Path) -> None:
    """SM86 (Ampere) has no FP8, SM89 (Ada) has."""
    fp8 = TensorProto.FLOAT8E4M3FN
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    zero = helper.make_tensor("zero", fp8, [], [0.0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, 16]) for name in "xy")
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(0.1), "scale"), zero]
    body = helper.make_graph(nodes, "g", [x], [y], constants)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "m.onnx")
    graph = Graph("g", (TensorSpec("x", "float32", (16, 16)),), (TensorSpec("y", "float32", (16, 16)),))
    with pytest.raises(RuntimeError, match=r"(?i)fp8"):
        build(tmp_path / "m.onnx", tmp_path / "e", graph, "SM86")
    assert build(tmp_path / "m.onnx", tmp_path / "e", graph, "SM89")["qdq"] == 4


def test_onnx_runtimes_default_quantisation_is_refused_by_name(shape_bundle: Bundle, tmp_path: Path) -> None:
    """It has unsigned activations with zero points, which TensorRT does not take."""
    source = shape_bundle.source("net")
    assert source.calibration is not None
    quantize_static(str(source.onnx), str(tmp_path / "m.onnx"), _Reader(source.graph, source.calibration))
    with pytest.raises(RuntimeError, match=r"(?i)zero|uint8"):
        build(tmp_path / "m.onnx", tmp_path / "e", source.graph, "SM86")


@pytest.mark.parametrize("capability", ("SM87", "SM90"))
def test_jetson_orin_and_h100_are_no_targets_of_rtx(shape_bundle: Bundle, tmp_path: Path, capability: str) -> None:
    source = shape_bundle.source("net")
    with pytest.raises(RequestError, match=f"not {capability}"):
        build(source.onnx, tmp_path / "e", source.graph, capability)


def test_options_that_cannot_be_are_refused(shape_bundle: Bundle, tmp_path: Path) -> None:
    target = get_target("tensorrt-rtx")
    for options, match in (({"batch": [8, 4, 16]}, r"\[min, opt, max\]"), ({"tf32": True}, "'tf32'")):
        with pytest.raises(RequestError, match=match):
            target.compile(shape_bundle.source("net"), tmp_path, "fp32", options)
    with pytest.raises(RequestError, match="SM75"):
        target.compile(shape_bundle.source("net"), tmp_path, "fp32", {"compute_capabilities": ["SM75"]})


def test_a_fixed_batch_needs_no_profile(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy")
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    graph = Graph("g", (TensorSpec("x", "float32", (2, 4)),), (TensorSpec("y", "float32", (2, 4)),))
    assert build(tmp_path / "m.onnx", tmp_path / "e", graph, "SM86")["batch"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not device_count(), reason=NO_GPU)
def test_an_engine_gives_the_float_outputs_and_its_latency_on_a_gpu(shape_bundle: Bundle, tmp_path: Path) -> None:
    target = get_target("tensorrt-rtx")
    source: GraphSource = shape_bundle.source("net")
    result = target.compile(source, tmp_path, "fp16", {})
    session = target.open(source.graph, tuple(tmp_path / name for name in result.files), "fp16", {})
    inputs, reference = shape_bundle.golden("net")
    np.testing.assert_allclose(session(inputs)["logits"], reference["logits"], atol=0.05)
    assert session.latency_ms({"canvas": inputs["canvas"][:1]}) > 0 and session.inspect()
