"""One-operator `.tflite` files for tests: any operator, options, shapes and quantisation.

    x = Spec((1, 8, 8, 4), scale=0.05, zero_point=3)
    w = Spec((8, 3, 3, 4), scale=[...], zero_point=[0] * 8, axis=0, data=weights)
    raw = build("CONV_2D", [x, w, bias], [y], strideW=1, strideH=1, padding=Padding.SAME, ...)

Options are the fields of the operator's builtin options by the schema's names; specs without `data` that are inputs
become the model's inputs, in order. `None` leaves an optional input out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

# Operators whose options are named otherwise than by the operator's own name.
OPTIONS = {
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "MEAN": "ReducerOptions", "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions", "LOGISTIC": None, "TANH": None, "RELU": None,
    "RELU6": None, "RSQRT": None, "PADV2": "PadV2Options", "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions", "SPLIT_V": "SplitVOptions", "BATCH_MATMUL": "BatchMatMulOptions",
    "EMBEDDING_LOOKUP": None,
}  # fmt: skip


@dataclass(eq=False)
class Spec:
    """A tensor. `scale` and `zero_point` are numbers, or lists along `axis`; no scale: not quantised."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: float | Sequence[float] | None = None
    zero_point: int | Sequence[int] = 0
    axis: int = 0
    data: np.ndarray | None = None
    name: str = ""


def constant(values: Any, dtype: str = "int32") -> Spec:
    """An unquantised constant, such as the axes of a reduction."""
    array = np.asarray(values, dtype)
    return Spec(array.shape, dtype, data=array)


@dataclass
class Node:
    """One operator of a file."""

    kind: str
    inputs: list[Spec | None]
    outputs: list[Spec]
    options: dict[str, Any]


def build(kind: str, inputs: Sequence[Spec | None], outputs: Sequence[Spec], **options: Any) -> bytes:
    """A file of one operator."""
    return build_graph([Node(kind, list(inputs), list(outputs), options)])


def build_graph(nodes: Sequence[Node], outputs: Sequence[Spec] | None = None) -> bytes:
    """A file of several operators. Inputs: what no operator gives and is not constant, in the order of first use.
    Outputs: `outputs`, else those of the last operator."""
    model = schema.ModelT()
    model.version, model.description, model.metadata, model.signatureDefs = 3, "test", [], []
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = b"main", [], []
    ids: dict[int, int] = {}
    specs: list[Spec] = []
    for node in nodes:
        for spec in [*node.inputs, *node.outputs]:
            if spec is not None and id(spec) not in ids:
                ids[id(spec)] = len(specs)
                specs.append(spec)
                graph.tensors.append(_tensor(spec, len(graph.tensors), model))
    for node in nodes:
        graph.operators.append(_operator(node, ids, model))
    given = {id(spec) for node in nodes for spec in node.outputs}
    graph.inputs = [ids[id(spec)] for spec in specs if spec.data is None and id(spec) not in given]
    graph.outputs = [ids[id(spec)] for spec in (outputs or nodes[-1].outputs)]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(spec: Spec, index: int, model: Any) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = (spec.name or f"tensor_{index}").encode(), list(spec.shape)
    tensor.type = getattr(schema.TensorType, spec.dtype.upper())
    tensor.buffer = 0
    if spec.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(spec.data, spec.dtype).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    if spec.scale is not None:
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.atleast_1d(np.asarray(spec.scale, np.float32))
        quantization.zeroPoint = np.atleast_1d(np.asarray(spec.zero_point, np.int64))
        quantization.quantizedDimension = spec.axis
        tensor.quantization = quantization
    return tensor


def _operator(node: Node, ids: dict[int, int], model: Any) -> Any:
    code = getattr(schema.BuiltinOperator, node.kind)
    known = [entry.builtinCode for entry in model.operatorCodes]
    if code not in known:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
        model.operatorCodes.append(entry)
        known.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = known.index(code)
    operator.inputs = [-1 if spec is None else ids[id(spec)] for spec in node.inputs]
    operator.outputs = [ids[id(spec)] for spec in node.outputs]
    default = "".join(part.capitalize() for part in node.kind.split("_")) + "Options"
    name = OPTIONS.get(node.kind, default)
    if name is not None:
        options = getattr(schema, f"{name}T")()
        for field, value in node.options.items():
            if not hasattr(options, field):
                raise AttributeError(f"{name} has no {field}")
            setattr(options, field, value)
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        operator.builtinOptions = options
    return operator
