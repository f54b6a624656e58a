from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from targets.bundle import Bundle
from targets.graph import Graph, TensorSpec
from targets.half import convert_to_half, overflows
from targets.half_reference import reference_of_half
from targets.target import GraphSource, get_target


def model_of(
    nodes: list[onnx.NodeProto],
    outputs: list[tuple[str, list[int | str]]],
    constants: dict[str, np.ndarray],
    opset: int = 18,
) -> onnx.ModelProto:
    """A model with the input x (batch, 4) float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def source_of(path: Path, model: onnx.ModelProto, golden: np.ndarray) -> GraphSource:
    onnx.save(model, path)
    spec = Graph("g", (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),))
    return GraphSource(spec, path, golden={"x": golden})


def test_a_converted_network_is_clean_and_its_tensors_are_half(shape_bundle: Bundle) -> None:
    half, stayed_float, clipped = convert_to_half(onnx.load(shape_bundle.source("net").onnx))
    onnx.checker.check_model(half, full_check=True)
    assert not stayed_float and not clipped
    assert {t.data_type for t in half.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}
    assert [v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)] == [TensorProto.FLOAT] * 2
    assert [n.op_type for n in half.graph.node].count("Cast") == 2
    inputs, reference = shape_bundle.golden("net")
    found = ReferenceEvaluator(half).run(None, {"canvas": inputs["canvas"][:2]})[0]
    np.testing.assert_allclose(found, reference["logits"][:2], rtol=0.02, atol=0.05)


def test_operators_that_know_no_half_stay_float_between_casts(tmp_path: Path) -> None:
    """Range takes no float16 (ONNX operator schema), Resize wants float32 scales, If is left alone."""
    then = helper.make_graph(
        [helper.make_node("Add", ["twice", "one"], ["t"])], "then", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["twice"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, None)]
    )
    model = model_of(
        [
            helper.make_node("Add", ["x", "x"], ["twice"]),
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            helper.make_node("Range", ["zero", "four", "one"], ["steps"]),
            helper.make_node("If", ["yes"], ["chosen"], then_branch=then, else_branch=other),
            helper.make_node("Mul", ["chosen", "steps"], ["z"]),
            helper.make_node("Reshape", ["z", "shape"], ["image"]),
            helper.make_node("Resize", ["image", "", "scales"], ["y"], mode="nearest"),
        ],
        [("y", ["batch", 1, 2, 4])],
        {
            "four": np.float32(4),
            "one": np.float32(1),
            "yes": np.array(True),
            "shape": np.array([-1, 1, 2, 2]),
            "scales": np.array([1, 1, 1, 2], np.float32),
        },
    )
    half, stayed_float, _ = convert_to_half(model)
    onnx.save(half, tmp_path / "half.onnx")
    onnx.checker.check_model(str(tmp_path / "half.onnx"), full_check=True)
    assert stayed_float == {"Range": 1, "If": 1}
    x = np.array([[1, 2, 3, 4]], np.float32)
    found = ReferenceEvaluator(half).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found[0, 0], [[0, 0, 5, 5], [14, 14, 27, 27]])  # (2x + 1) * [0, 1, 2, 3], doubled


def test_an_overflow_that_the_cpu_hides_is_found(tmp_path: Path) -> None:
    """x * 200 * 200 passes 65504, then shrinks back: ONNX Runtime, computing in float32, gives the right answer."""
    model = model_of(
        [
            helper.make_node("Mul", ["x", "up"], ["a"]),
            helper.make_node("Mul", ["a", "up"], ["b"]),
            helper.make_node("Mul", ["b", "down"], ["y"]),
        ],
        [("y", ["batch", 4])],
        {"up": np.float32(200), "down": np.float32(1e-4)},
    )
    source = source_of(tmp_path / "m.onnx", model, np.array([[1, 2, 3, 0.5]], np.float32))
    for runtime in ("onnx", "openvino"):
        (tmp_path / runtime).mkdir()
        compiled = get_target(runtime).compile(source, tmp_path / runtime, "fp16", {})
        assert compiled.problem is not None and "b reaches 1.2e+05" in compiled.problem
    half, _, _ = convert_to_half(model)
    literal = ReferenceEvaluator(half).run(None, {"x": np.array([[1, 2, 3, 0.5]], np.float32)})[0]
    assert np.isinf(literal).any(), "the reference of onnx agrees that it overflows"


def test_a_mask_constant_is_clipped_and_no_overflow(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "mask"], ["masked"]), helper.make_node("Softmax", ["masked"], ["y"], axis=-1)],
        [("y", ["batch", 4])],
        {"mask": np.array([0, 0, -1e9, np.finfo(np.float32).min], np.float32)},
    )
    source = source_of(tmp_path / "m.onnx", model, np.array([[1, 2, 3, 4]], np.float32))
    compiled = get_target("onnx").compile(source, tmp_path, "fp16", {})
    assert compiled.problem is None
    assert any("2 constants" in note for note in compiled.notes)
    half, _, _ = convert_to_half(model)
    found = ReferenceEvaluator(half).run(None, {"x": np.array([[1, 2, 3, 4]], np.float32)})[0]
    np.testing.assert_allclose(found, [[1 / (1 + np.e), np.e / (1 + np.e), 0, 0]], atol=1e-3)


@pytest.mark.parametrize("opset", [13, 18])
def test_statistics_and_large_factors_keep_float32(tmp_path: Path, opset: int) -> None:
    """A batch norm's variance of 1e8 and a factor of 1e-5 x 1e5 lose their meaning in float16. Before opset 15 a batch
    norm's arguments share one type, so all of it stays float."""
    model = model_of(
        [
            helper.make_node("BatchNormalization", ["x", "scale", "zero", "zero", "variance"], ["n"], epsilon=0.0),
            helper.make_node("Div", ["n", "large"], ["small"]),
            helper.make_node("Mul", ["small", "large"], ["y"]),
        ],
        [("y", ["batch", 4])],
        {
            "scale": np.full(4, 1e4, np.float32),
            "zero": np.zeros(4, np.float32),
            "variance": np.full(4, 1e8, np.float32),
            "large": np.float32(1e5),
        },
        opset,
    )
    half, stayed_float, clipped = convert_to_half(model)
    onnx.save(half, tmp_path / "h.onnx")
    onnx.checker.check_model(str(tmp_path / "h.onnx"), full_check=True)
    assert clipped == 0 and stayed_float == {"Div": 1, "Mul": 1} | ({"BatchNormalization": 1} if opset < 15 else {})
    x = np.array([[1, 2, 3, 4]], np.float32)
    session = get_target("onnx").open(
        source_of(tmp_path / "m.onnx", model, x).graph, (tmp_path / "h.onnx",), "fp16", {}
    )
    np.testing.assert_allclose(session({"x": x})["y"], x, rtol=0.02)


def test_batch_norms_are_folded_where_they_can_be(tmp_path: Path) -> None:
    """Else every one would be an island of float32 between two casts."""
    model = model_of(
        [
            helper.make_node("Reshape", ["x", "shape"], ["image"]),
            helper.make_node("Conv", ["image", "kernel"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "scale", "zero", "zero", "variance"], ["n"]),
            helper.make_node("Reshape", ["n", "flat"], ["y"]),
        ],
        [("y", ["batch", 4])],
        {
            "shape": np.array([-1, 1, 2, 2]),
            "flat": np.array([-1, 4]),
            "kernel": np.full((1, 1, 1, 1), 2, np.float32),
            "scale": np.ones(1, np.float32),
            "zero": np.zeros(1, np.float32),
            "variance": np.full(1, 4, np.float32),
        },
        opset=13,
    )
    source = source_of(tmp_path / "m.onnx", model, np.ones((2, 4), np.float32))
    (tmp_path / "out").mkdir()
    compiled = get_target("onnx").compile(source, tmp_path / "out", "fp16", {})
    assert compiled.float_operators == {}
    session = get_target("onnx").open(source.graph, (tmp_path / "out" / "model.onnx",), "fp16", {})
    x = np.array([[1, 2, 3, 4]], np.float32)
    np.testing.assert_allclose(session({"x": x})["y"], x, rtol=1e-3)  # 2 x / sqrt(4)


def test_a_float_infinity_is_no_overflow(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "mask"], ["m"]), helper.make_node("Softmax", ["m"], ["y"], axis=-1)],
        [("y", ["batch", 4])],
        {"mask": np.array([0, 0, 0, -np.inf], np.float32)},
    )
    onnx.save(model, tmp_path / "m.onnx")
    onnx.save(convert_to_half(model)[0], tmp_path / "h.onnx")
    assert overflows(tmp_path / "h.onnx", tmp_path / "m.onnx", [{"x": np.ones((1, 4), np.float32)}]) == {}


@pytest.mark.parametrize("name", ["words_bundle", "pair_bundle"])
def test_other_networks_convert_cleanly(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    half, stayed_float, _ = convert_to_half(onnx.load(bundle.source("net").onnx))
    onnx.checker.check_model(half, full_check=True)
    assert not stayed_float
    inputs, reference = bundle.golden("net")
    found = ReferenceEvaluator(half).run(None, dict(inputs))
    for value, wanted in zip(found, reference.values(), strict=True):
        np.testing.assert_allclose(value, wanted, atol=0.01)


def test_the_half_reference_rounds_every_tensor_and_sums_in_float32() -> None:
    """A sum of 4096 ones in float16 would stop at 2048."""
    ones = numpy_helper.from_array(np.ones((4096, 1), np.float32), "ones")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4096]), ("y", [1, 1])))
    nodes = [helper.make_node("MatMul", ["x", "ones"], ["sum"]), helper.make_node("Add", ["sum", "one"], ["y"])]
    one = numpy_helper.from_array(np.float32(1), "one")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [ones, one]))
    half, _, _ = convert_to_half(model)
    session = onnxruntime.InferenceSession(reference_of_half(half).SerializeToString())
    assert session.run(None, {"x": np.ones((1, 4096), np.float32)})[0] == 4096.0  # 4097 is no float16, 4096 is nearest
    assert session.run(None, {"x": np.full((1, 4096), 100, np.float32)})[0] == np.inf
