"""A recurrent layer in int8: the layers around it are quantised, it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.importing import import_model
from targets.parity import compare
from targets.target import get_target
from tests.tools import need_module

WIDTH, HIDDEN = 8, 6


def write_lstm(path: Path) -> None:
    """One step of an LSTM between two products: x, state and cell, (batch, ...) each, to y, state_out and cell_out."""
    rng = np.random.default_rng(0)
    shapes = {"w_in": (WIDTH, WIDTH), "w": (1, 4 * HIDDEN, WIDTH), "r": (1, 4 * HIDDEN, HIDDEN), "w_out": (HIDDEN, 4)}
    constants = [
        numpy_helper.from_array((rng.standard_normal(s) / 2).astype(np.float32), name) for name, s in shapes.items()
    ]
    constants.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    n = helper.make_node
    nodes = [
        n("MatMul", ["x", "w_in"], ["a"]),
        n("Unsqueeze", ["a", "first"], ["steps"]),
        n("Unsqueeze", ["state", "first"], ["h"]),
        n("Unsqueeze", ["cell", "first"], ["c"]),
        n("LSTM", ["steps", "w", "r", "", "", "h", "c"], ["", "h_out", "c_out"], hidden_size=HIDDEN),
        n("Squeeze", ["h_out", "first"], ["state_out"]),
        n("Squeeze", ["c_out", "first"], ["cell_out"]),
        n("MatMul", ["state_out", "w_out"], ["y"]),
    ]
    sizes = {"x": WIDTH, "state": HIDDEN, "cell": HIDDEN, "y": 4, "state_out": HIDDEN, "cell_out": HIDDEN}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in sizes.items()]
    graph = helper.make_graph(nodes, "g", values[:3], values[3:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


CASES = [("onnx", "onnxruntime", "LSTM"), ("openvino", "nncf", "RNNSeq")]  # the layer's name where it is executed


@pytest.mark.parametrize(("runtime", "module", "layer"), CASES)
def test_an_lstm_stays_float_and_the_rest_is_int8(tmp_path: Path, runtime: str, module: str, layer: str) -> None:
    need_module(module)
    write_lstm(tmp_path / "m.onnx")
    rng = np.random.default_rng(1)
    sizes = {"x": WIDTH, "state": HIDDEN, "cell": HIDDEN}
    np.savez(tmp_path / "d.npz", **{k: rng.standard_normal((64, v)).astype(np.float32) for k, v in sizes.items()})  # type: ignore[arg-type]
    source = import_model(str(tmp_path / "m.onnx"), tmp_path / "b", data=tmp_path / "d.npz").source("model")
    target, golden = get_target(runtime), source.golden
    (tmp_path / "out").mkdir()
    compiled = target.compile(source, tmp_path / "out", "int8", {"threads": 1})
    assert layer in compiled.float_operators and compiled.quantization["quantized_operators"]
    files = tuple(tmp_path / "out" / name for name in compiled.files)
    assert golden is not None
    found = target.open(source.graph, files, "int8", {"threads": 1})(golden)
    expected = get_target("onnx").open(source.graph, (source.onnx,), "fp32", {})(golden)
    sqnr_db = compare(expected, found).sqnr_db
    assert sqnr_db is not None and sqnr_db > 25
