"""Read a `.tflite` file: its tensors, operators and constants as plain dataclasses. Needs ai-edge-litert only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError, require

EXTRA = "tflite"
FLOATS = ("float32", "float16", "bfloat16", "float64")
# Schema's element type -> numpy's name, where numpy has one.
DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "INT8": "int8", "INT16": "int16",
    "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file. `data` is its constant value, None for activations. Quantisation: scale (float32) and
    zero_point of one element, or of as many as the axis `axis` has; empty if the tensor is not quantised."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    data: np.ndarray | None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def is_constant(self) -> bool:
        return self.data is not None


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator: `kind` is the schema's name ("CONV_2D"), `options` the fields of its builtin options by the
    schema's names ("strideW"). An optional input that is left out is None. `intermediates` is not read."""

    index: int
    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it stands, for messages: "CONV_2D (operator 3, gives encoder/stem)"."""
        return f"{self.kind} (operator {self.index}, gives {self.outputs[0].name if self.outputs else 'nothing'})"


@dataclass(frozen=True)
class Model:
    """The only subgraph of a file. Inputs and outputs are in the file's order."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def operator_counts(self) -> Counter[str]:
        return Counter(operator.kind for operator in self.operators)

    def float_operators(self) -> Counter[str]:
        """Operators that compute in float: any input or output that is not constant is a float tensor. QUANTIZE and
        DEQUANTIZE at the border count as well: a full-integer file has none."""
        return Counter(
            operator.kind
            for operator in self.operators
            if any(
                t is not None and not t.is_constant and t.dtype in FLOATS for t in operator.inputs + operator.outputs
            )
        )


def read_model(source: str | Path | bytes) -> Model:
    """Read a file, or its bytes. Raises RequestError if it is no `.tflite`, or has more than one subgraph."""
    schema = require("ai_edge_litert.schema_py_generated", EXTRA)
    raw = source if isinstance(source, bytes) else Path(source).read_bytes()
    shown = "the model" if isinstance(source, bytes) else str(source)
    if raw[4:8] != b"TFL3":
        raise RequestError(f"{shown}: not a .tflite file")
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    if len(content.subgraphs) != 1:
        raise RequestError(f"{shown}: has {len(content.subgraphs)} subgraphs (control flow); one is read")
    graph = content.subgraphs[0]
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    tensors = tuple(_tensor(i, t, content, raw, types) for i, t in enumerate(graph.tensors))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    operators = []
    for i, operator in enumerate(graph.operators):
        code = content.operatorCodes[operator.opcodeIndex]
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if kind == "CUSTOM" and code.customCode:
            kind = f"CUSTOM {bytes(code.customCode).decode()}"
        operators.append(
            Operator(
                i,
                kind,
                tuple(tensors[j] if j >= 0 else None for j in _list(operator.inputs)),
                tuple(tensors[j] for j in _list(operator.outputs)),
                dict(vars(operator.builtinOptions)) if operator.builtinOptions is not None else {},
            )
        )
    inputs, outputs = (tuple(tensors[j] for j in _list(ids)) for ids in (graph.inputs, graph.outputs))
    return Model(tensors, tuple(operators), inputs, outputs)


def inline_buffers(raw: bytes) -> bytes:
    """The same file with every buffer inside the flatbuffer. Files whose buffers pass 256 KiB keep them behind it,
    which TFLite-Micro reads as zeros without a word."""
    schema, flatbuffers = require("ai_edge_litert.schema_py_generated", EXTRA), require("flatbuffers", EXTRA)
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    outside = [buffer for buffer in content.buffers if buffer.offset > 1]
    if not outside:
        return raw
    for buffer in outside:
        buffer.data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _list(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _tensor(index: int, tensor: Any, content: Any, raw: bytes, types: Mapping[int, str]) -> Tensor:
    kind = types[tensor.type]
    dtype = DTYPES.get(kind, kind.lower())
    shape = tuple(_list(tensor.shape))
    buffer = content.buffers[tensor.buffer]
    data = buffer.data
    if buffer.offset > 1:
        data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
    array = None
    if data is not None and len(data) and kind in DTYPES:
        array = np.frombuffer(np.ascontiguousarray(data).tobytes(), dtype).reshape(shape)
    quantization = tensor.quantization
    scale = getattr(quantization, "scale", None)
    zero = getattr(quantization, "zeroPoint", None)
    return Tensor(
        index,
        tensor.name.decode() if tensor.name else f"tensor_{index}",
        dtype,
        shape,
        np.asarray([] if scale is None else scale, np.float32),
        np.asarray([] if zero is None else zero, np.int64),
        int(getattr(quantization, "quantizedDimension", 0) or 0),
        array,
    )
