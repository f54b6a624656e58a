"""Ifs that always take one branch, whatever the batch is; Ifs that depend on the data or on the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from targets.importing import import_model
from targets.onnx_branches import fold_ifs
from targets.target import get_target

n = helper.make_node


def value(name: str, shape: list[Any] | None = None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(name: str, *operators: str) -> Any:
    """x through operators; its inner names are those of every other branch."""
    nodes, last = [], "x"
    for i, operator in enumerate(operators):
        nodes.append(n(operator, [last], [f"inner{i}"]))
        last = f"inner{i}"
    return helper.make_graph(nodes, name, [], [value(last)])


def model(condition: list[Any], then: Any, orelse: Any) -> Any:
    """y = x (batch, 3) through one of two branches; `condition`: the nodes that make c."""
    constants = [
        helper.make_tensor("rank", TensorProto.INT64, [], [2]),
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("second", TensorProto.INT64, [1], [1]),
        helper.make_tensor("three", TensorProto.INT64, [1], [3]),
    ]
    nodes = [*condition, n("If", ["c"], ["y"], name="/choice", then_branch=then, else_branch=orelse)]
    graph = helper.make_graph(nodes, "g", [value("x", ["batch", 3])], [value("y", ["batch", 3])], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def run(made: Any, x: np.ndarray) -> np.ndarray:
    found: Any = ReferenceEvaluator(made).run(None, {"x": x})
    return found[0]


RANK_IS_2 = [n("Shape", ["x"], ["s"]), n("Size", ["s"], ["r"]), n("Equal", ["r", "rank"], ["c"])]
RANK_IS_NOT_2 = [*RANK_IS_2[:2], n("Equal", ["r", "rank"], ["e"]), n("Not", ["e"], ["c"])]
WIDTH_IS_3 = [n("Shape", ["x"], ["s"]), n("Gather", ["s", "second"], ["w"]), n("Equal", ["w", "three"], ["c"])]
BATCH_IS_3 = [n("Shape", ["x"], ["s"]), n("Gather", ["s", "first"], ["w"]), n("Equal", ["w", "three"], ["c"])]
SUM_IS_LARGE = [n("ReduceSum", ["x"], ["t"], keepdims=0), n("Cast", ["t"], ["c"], to=TensorProto.BOOL)]


@pytest.mark.parametrize(
    ("condition", "sign"), [(RANK_IS_2, -1), (RANK_IS_NOT_2, 1), (WIDTH_IS_3, -1)], ids=["rank", "not rank", "width"]
)
def test_a_condition_on_ranks_and_fixed_sizes_is_decided_with_an_open_batch(condition: list[Any], sign: int) -> None:
    made = model(condition, branch("then", "Abs", "Neg"), branch("else", "Abs"))
    assert fold_ifs(made) == 1
    onnx.checker.check_model(made, full_check=True)
    assert "If" not in {node.op_type for node in made.graph.node}
    for batch in (1, 3, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
        np.testing.assert_array_equal(run(made, x), sign * np.abs(x))


@pytest.mark.parametrize("condition", [BATCH_IS_3, SUM_IS_LARGE], ids=["batch", "data"])
def test_a_condition_on_the_batch_or_the_data_stays(condition: list[Any]) -> None:
    made = model(condition, branch("then", "Neg"), branch("else", "Abs"))
    before = made.SerializeToString()
    assert fold_ifs(made) == 0 and made.SerializeToString() == before


def test_ifs_inside_of_a_branch_that_is_taken_are_decided_too() -> None:
    inner = n("If", ["c"], ["inner0"], name="/inner", then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs"))
    outer = helper.make_graph([inner, n("Neg", ["inner0"], ["out"])], "outer", [], [value("out")])
    made = model(RANK_IS_NOT_2, branch("then", "Relu"), outer)
    assert fold_ifs(made) == 2
    onnx.checker.check_model(made)
    x = np.array([[-1.0, 2.0, -3.0]], np.float32)
    np.testing.assert_array_equal(run(made, x), -np.abs(x))


def test_an_imported_file_has_none_of_them_and_says_so(tmp_path: Path) -> None:
    onnx.save(model(RANK_IS_2, branch("then", "Abs", "Neg"), branch("else", "Abs")), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    bundle = import_model(str(tmp_path / "m.onnx"), tmp_path / "b", data=tmp_path / "d.npz")
    assert "If" not in {node.op_type for node in onnx.load(bundle.source("model").onnx).graph.node}
    golden = bundle.source("model").golden
    assert golden is not None and bundle.graphs["model"].inputs[0].shape == ("batch", 3)
    assert any("always take one branch" in remark for remark in bundle.lineage["remarks"])


def test_what_cannot_be_proven_of_a_branch_that_depends_on_the_data_is_said_beforehand(tmp_path: Path) -> None:
    onnx.save(model(SUM_IS_LARGE, branch("then", "Neg"), branch("else", "Abs")), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((6, 3), np.float32))
    source = import_model(str(tmp_path / "m.onnx"), tmp_path / "b", data=tmp_path / "d.npz").source("model")
    target = get_target("tensorrt-rtx")
    reason = target.unsupported(source, "fp16")
    assert reason is not None and "If /choice depends on the data" in reason and "export the branch" in reason
    assert target.unsupported(source, "fp32") is None and target.unsupported(source, "int8") is None
