"""Inputs of a user's ONNX file that are not (batch, fixed sizes)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import targets
from profiles.errors import RequestError
from targets.importing import import_model
from targets.onnx_files import graph_io


def recurrent(path: Path, state: list[int | str], state_out: list[int | str], rate: bool = True) -> Path:
    """y = mean of state[1] + x * rate; state' = state + 1, with a state (2, batch, 3) as recurrent networks have it."""
    info, nodes = helper.make_tensor_value_info, []
    inputs = [info("x", TensorProto.FLOAT, ["batch", 3]), info("state", TensorProto.FLOAT, state)]
    if rate:
        inputs.append(info("rate", TensorProto.INT64, []))
    constants = [
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("second", TensorProto.INT64, [], [1]),
    ]
    nodes += [
        helper.make_node("Add", ["state", "one"], ["state_out"]),
        helper.make_node("Gather", ["state", "second"], ["last"], axis=0),
    ]
    if rate:
        nodes += [
            helper.make_node("Cast", ["rate"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        ]
    nodes.append(helper.make_node("Add", ["scaled" if rate else "x", "last"], ["y"]))
    outputs = [info("y", TensorProto.FLOAT, ["batch", 3]), info("state_out", TensorProto.FLOAT, state_out)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def arrays(count: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((count, 3)).astype(np.float32),
        "state": rng.standard_normal((count, 2, 3)).astype(np.float32),
        "rate": np.full(count, 7),
    }


def refused(match: str, path: Path, out: Path, given: dict[str, np.ndarray] | None) -> None:
    data = None
    if given is not None:
        data = out.with_suffix(".npz")
        np.savez(data, **given)
    with pytest.raises(RequestError, match=match) as caught:
        import_model(str(path), out, data=data)
    assert "\n" not in str(caught.value) and not out.exists()


@pytest.mark.parametrize("state", [[2, "batch", 3], [2, "", 3]], ids=["named", "the only open axis"])
def test_a_state_with_a_later_batch_axis_and_a_constant_rate_run_on_every_runtime(
    tmp_path: Path, state: list[int | str]
) -> None:
    path = recurrent(tmp_path / "m.onnx", state, [2, "batch", 3])
    given = arrays()
    np.savez(tmp_path / "d.npz", **given)
    bundle = import_model(str(path), tmp_path / "b", data=tmp_path / "d.npz")
    graph = bundle.graphs["model"]
    assert [(spec.name, spec.shape) for spec in graph.inputs] == [("x", ("batch", 3)), ("state", ("batch", 2, 3))]
    for runtime in ("onnx", "openvino"):
        found = targets.load(bundle.path, runtime).sessions["model"]({key: given[key] for key in ("x", "state")})
        np.testing.assert_allclose(found["y"], given["x"] * 7 + given["state"][:, 1], atol=1e-5)
        np.testing.assert_allclose(found["state_out"], given["state"] + 1, atol=1e-6)
    remarks = " / ".join(bundle.lineage["remarks"])
    assert "input rate is 7 in every item" in remarks and "state has its batch on axis 1" in remarks
    assert "state_out has its batch on axis 1" in remarks


def test_a_scalar_input_without_one_value_is_refused(tmp_path: Path) -> None:
    path, out, given = recurrent(tmp_path / "m.onnx", [2, "batch", 3], [2, "batch", 3]), tmp_path / "b", arrays()
    refused("input rate is a scalar: give --data with an array rate", path, out, None)
    refused("input rate is a scalar: give", path, out, {key: given[key] for key in ("x", "state")})
    refused("rate is a scalar, but has the values 0, 1, 2, ...: give", path, out, {**given, "rate": np.arange(5)})
    refused("input rate is float64, the graph takes int64", path, out, {**given, "rate": np.full(5, 0.5)})
    refused("has only rate: give one array per input", path, out, {"rate": np.full(5, 7)})


def test_first_axes_that_differ_without_a_batch_name_are_refused_with_their_sizes(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "m.onnx", [2, 1, 3], [2, 1, 3], rate=False)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    refused(r"first axes of the inputs differ \(x 1, state 2\); they must be one batch", path, tmp_path / "b", None)


def test_an_axis_of_size_zero_is_one_without_a_size() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [0, 4, -1])
    assert graph_io([value]) == [("x", "float32", ("?0", 4, "?2"))]
