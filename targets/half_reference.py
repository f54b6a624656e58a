"""Reference arithmetic of a float16 network: every tensor is rounded to float16, every operator sums in float32.

That is what GPUs and NPUs with half-precision tensors do. Runtimes on a CPU keep float32 between operators, which hides
overflow and rounding; onnx.reference sums in float16, which is worse than any hardware. So the float16 file is turned
into a float32 one with an explicit rounding (Cast to float16 and back) behind every operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from profiles.errors import require

RAW, ROUNDED = "__raw", "__rounded"


def reference_of_half(model: Any) -> Any:
    """The float32 ModelProto that computes what a float16 one means, with the same inputs and outputs.

    Raises ValueError for control flow: the bodies of If, Loop and Scan are not looked into.
    """
    onnx = require("onnx", "onnx")
    half_type, float_type = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    model = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:], graph.node[:], graph.initializer[:]
    graph.initializer.extend(_as_float(onnx, tensor) for tensor in model.graph.initializer)
    for node in model.graph.node:
        new = graph.node.add()
        new.CopyFrom(node)
        for attribute in new.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise ValueError(f"{node.op_type} {node.name} has a body")
            if attribute.type == onnx.AttributeProto.TENSOR:
                attribute.t.CopyFrom(_as_float(onnx, attribute.t))
            if attribute.name in ("to", "dtype") and attribute.i == half_type:
                attribute.i = float_type
        for i, name in enumerate(node.output):
            if types.get(name) != half_type:
                continue
            new.output[i] = name + RAW
            graph.node.extend(
                [
                    onnx.helper.make_node("Cast", [name + RAW], [name + ROUNDED], to=half_type),
                    onnx.helper.make_node("Cast", [name + ROUNDED], [name], to=float_type),
                ]
            )
    return result


def _as_float(onnx: Any, tensor: Any) -> Any:
    if tensor.data_type != onnx.TensorProto.FLOAT16:
        return tensor
    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
