"""A network that int8 breaks in one known place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 16


def write_outlier(path: Path) -> dict[str, np.ndarray]:
    """Three layers that give "first", "second" and "y". Behind the first, one channel is 3,000 times the others, and
    the second layer divides it again: in int8 its input has no steps left for the others. Gives 64 inputs "x"."""
    rng = np.random.default_rng(0)
    first, second, third = (rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4 for _ in range(3))
    first[:, 0] *= 3000
    second[0] /= 3000
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["first"]),
        helper.make_node("Relu", ["first"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["second"]),
        helper.make_node("Relu", ["second"], ["b"]),
        helper.make_node("MatMul", ["b", "w3"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy")
    constants = [numpy_helper.from_array(w, n) for n, w in (("w1", first), ("w2", second), ("w3", third))]
    body = helper.make_graph(nodes, "g", [x], [y], constants)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return {"x": rng.standard_normal((64, WIDTH)).astype(np.float32)}
