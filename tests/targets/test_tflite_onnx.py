"""A user's `.onnx` without a program: mapped to torch, compared with the file, converted; or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from profiles.errors import RequestError
from targets.bundle import Bundle
from targets.onnx_files import read_graph
from targets.parity import compare, failure
from targets.target import GraphSource, get_target
from targets.tflite.from_onnx import program_module, unconvertible
from targets.tflite.scan import call_shapes
from targets.tflite.schema import read_model
from tests.tools import need_module

need_module("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "onnx2torch")
TARGET = get_target("tflite")
RNG = np.random.default_rng(0)


def weights(name: str, *shape: int) -> Any:
    return onnx.numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def ints(name: str, *values: int) -> Any:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


def source(
    path: Path, nodes: Sequence[Any], shape: Sequence[int | str], constants: Sequence[Any] = (), opset: int = 17
) -> GraphSource:
    """A file of nodes from x to y, with 8 random golden rows."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    if not model.graph.output[0].type.tensor_type.HasField("shape"):  # not inferred: as the input
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *shape]))
    onnx.save(model, path)
    sizes = [6 if isinstance(size, str) else size for size in shape]
    golden = {"x": RNG.standard_normal((8, *sizes)).astype(np.float32)}
    return GraphSource(read_graph(path, "net"), path, None, golden, golden)


def n(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(","), output.split(","), name=f"/{output}/{kind}", **attributes)


def test_a_trained_network_from_its_onnx_file_alone(shape_bundle: Bundle, tmp_path: Path) -> None:
    whole = shape_bundle.source("net")
    bare = GraphSource(whole.graph, whole.onnx, None, whole.calibration, whole.golden)
    assert TARGET.unsupported(bare, "int8") is None
    inputs, reference = shape_bundle.golden("net")
    for precision in ("fp32", "int8"):
        compiled = TARGET.compile(bare, tmp_path, precision, {})
        session = TARGET.open(whole.graph, (tmp_path / "model.tflite",), precision, {"threads": 1})
        assert failure(compare(reference, session(inputs)), precision) is None
    assert compiled.float_operators == {}
    assert compiled.quantization["quantized_operators"] == {"DEPTHWISE_CONV_2D": 4, "CONV_2D": 3, "FULLY_CONNECTED": 1}


# What onnx2torch lacks, or reads from tensors: each against the reference evaluator of `onnx`.
# fmt: off
FORMS: dict[str, tuple[list[Any], list[int], list[Any], int]] = {
    "global pools": ([n("GlobalMaxPool", "x", "a"), n("GlobalAveragePool", "x", "b"), n("Concat", "a,b", "y", axis=1)],
                     [3, 5, 5], [], 17),
    "gelu": ([n("Gelu", "x", "a"), n("Gelu", "a", "y", approximate="tanh")], [7], [], 20),
    "hard swish and hard sigmoid": ([n("HardSwish", "x", "a"), n("HardSigmoid", "a", "y", alpha=0.3)], [7], [], 17),
    "layer normalisation": ([n("LayerNormalization", "x,s,b", "y")], [5, 8], [weights("s", 8), weights("b", 8)], 17),
    "group normalisation": ([n("GroupNormalization", "x,s,b", "y", num_groups=2)], [4, 5, 5],
                            [weights("s", 4), weights("b", 4)], 21),
    "resize": ([n("Resize", "x,,t", "a", mode="nearest"), n("Resize", "a,,,u", "y", mode="linear")], [2, 4, 4],
               [onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "t"), ints("u", 1, 2, 12, 16)], 18),
    "reductions": ([n("ReduceMean", "x,c", "a"), n("ReduceMax", "x,c", "b"), n("Sub", "b,a", "d"),
                    n("ReduceL2", "d,e", "y", keepdims=0)], [3, 5, 6], [ints("c", 3), ints("e", 2)], 18),
    "slices, pads, splits": ([n("Slice", "x,s,t,u,v", "a"), n("Pad", "a,p", "b"), n("Split", "b", "c,d", axis=1,
                              num_outputs=2), n("Add", "c,d", "y")], [4, 9],
                             [ints("s", -1), ints("t", -10), ints("u", 2), ints("v", -2), ints("p", 0, 0, 1, 0, 0, 2)],
                             18),
    "shapes of shapes": ([n("Shape", "x", "s"), n("Gather", "s,z", "b"), n("Unsqueeze", "b,o", "c"),
                          n("Concat", "c,m", "d", axis=0), n("Reshape", "x,d", "y")], [4, 6],
                         [onnx.numpy_helper.from_array(np.array(0, np.int64), "z"), ints("o", 0), ints("m", 24)], 17),
    "space to depth": ([n("SpaceToDepth", "x", "y", blocksize=2)], [3, 4, 6], [], 17),
    "comparisons": ([n("GreaterOrEqual", "x,z", "a"), n("Where", "a,x,z", "y")], [5], [weights("z", 5)], 17),
}
# fmt: on


@pytest.mark.parametrize("name", FORMS)
def test_operators_are_what_the_reference_of_onnx_computes(name: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = FORMS[name]
    given = source(tmp_path / "m.onnx", nodes, shape, constants, opset)
    assert TARGET.unsupported(given, "fp32") is None
    program = program_module(given, call_shapes(given))  # compares with ONNX Runtime itself
    import torch

    assert given.golden is not None
    row = given.golden["x"][:1]
    (expected,) = ReferenceEvaluator(str(given.onnx)).run(None, {"x": row})
    (found,) = torch.utils._pytree.tree_leaves(program(torch.from_numpy(row)))
    assert failure(compare({"y": expected}, {"y": found.numpy()}), "fp32") is None


def test_a_written_out_hard_swish_becomes_one_operator(tmp_path: Path) -> None:
    """x * clip(x + 3, 0, 6) / 6, as files before opset 14 have it."""
    constants = [weights("w", 4, 2, 1, 1)]
    for name, value in (("three", 3), ("zero", 0), ("six", 6)):
        constants.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    nodes = [n("Conv", "x,w", "c"), n("Add", "c,three", "a"), n("Clip", "a,zero,six", "b"), n("Mul", "c,b", "d")]
    given = source(tmp_path / "m.onnx", [*nodes, n("Div", "d,six", "y")], [2, 6, 6], constants, 13)
    TARGET.compile(given, tmp_path, "int8", {})
    counts = read_model(tmp_path / "model.tflite").operator_counts()
    assert counts["HARD_SWISH"] == 1 and not {"ADD", "MUL", "MINIMUM"} & set(counts)


def test_operators_without_a_mapping_are_named_with_count_and_place(tmp_path: Path) -> None:
    lstm = [weights("w", 1, 16, 3), weights("r", 1, 16, 4)]
    first = n("LSTM", "x,w,r", "h", hidden_size=4)
    given = source(tmp_path / "m.onnx", [first, n("Det", "h", "y")], [5, 3], lstm)
    reason = TARGET.unsupported(given, "fp32")
    assert reason is not None and "LSTM (x1, first /h/LSTM): export the cell of one step" in reason
    assert "Det (x1, first /y/Det)" in reason


def test_a_shape_that_is_computed_from_data_is_named(tmp_path: Path) -> None:
    nodes = [n("ReduceSum", "x", "s", keepdims=0), n("Cast", "s", "i", to=TensorProto.INT64),
             n("Unsqueeze", "i,z", "j"), n("Expand", "x,j", "y")]  # fmt: skip
    given = source(tmp_path / "m.onnx", nodes, [1], [ints("z", 0)])
    reason = unconvertible(given.onnx, call_shapes(given))
    assert reason is not None and "Expand (x1, first /y/Expand): its shape, axes or sizes are computed" in reason


def test_a_dynamic_axis_takes_its_size_from_the_samples_or_is_refused(tmp_path: Path) -> None:
    given = source(tmp_path / "m.onnx", [n("Relu", "x", "y")], [3, "length"])
    assert TARGET.unsupported(given, "fp32") is None
    TARGET.compile(given, tmp_path, "fp32", {})
    assert read_model(tmp_path / "model.tflite").inputs[0].shape == (1, 3, 6)
    bare = GraphSource(given.graph, given.onnx)
    assert "axis 'length' of input x is dynamic" in (TARGET.unsupported(bare, "fp32") or "")


def test_an_if_with_a_constant_condition_is_its_branch(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    other = helper.make_tensor_value_info("e", TensorProto.FLOAT, None)
    then = helper.make_graph([n("Relu", "x", "t")], "then", [], [value])
    orelse = helper.make_graph([n("Neg", "x", "e")], "else", [], [other])
    condition = onnx.numpy_helper.from_array(np.array(False), "c")
    node = helper.make_node("If", ["c"], ["y"], name="/if", then_branch=then, else_branch=orelse)
    given = source(tmp_path / "m.onnx", [node], [4], [condition])
    assert TARGET.unsupported(given, "fp32") is None
    import torch

    program = program_module(given, call_shapes(given))
    (found,) = torch.utils._pytree.tree_leaves(program(torch.full((1, 4), 2.0)))
    assert found.tolist() == [[-2.0] * 4]


def test_a_module_that_does_not_repeat_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from targets.tflite import onnx_operators

    wrong = onnx_operators.Operator(lambda node: lambda x: x * 1.01, ())
    monkeypatch.setitem(onnx_operators.OPERATORS, "HardSwish", wrong)
    given = source(tmp_path / "m.onnx", [n("HardSwish", "x", "y")], [4])
    with pytest.raises(RequestError, match="the ONNX file as a torch module differs by"):
        program_module(given, call_shapes(given))
