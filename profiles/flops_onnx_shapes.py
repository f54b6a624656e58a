"""Shapes of an ONNX graph, operator by operator, from concrete input shapes.

`onnx.shape_inference` on a whole model gives up behind shapes that the graph computes itself. Here every small tensor
whose value does not depend on the inputs is computed on the way (with onnx's reference implementation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from profiles.flops_tables import MICROSOFT_SAME_SHAPE

Shape = tuple[int, ...]

_SMALL = 4096  # elements of a tensor whose value is worth knowing
_UNKNOWABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


class Shapes:
    """Types and small values of tensors, by name. `onnx`: the module; `model`: a ModelProto without local functions."""

    def __init__(self, onnx: Any, model: Any, folder: Path) -> None:
        self._onnx = onnx
        self._folder = folder
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._opset_imports = list(model.opset_import)
        self._types: dict[str, Any] = {}
        self._values: dict[str, np.ndarray] = {}
        self._declared = {info.name: info.type for info in (*model.graph.value_info, *model.graph.output)}

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor; None if any of its axes is unknown."""
        type_ = self._types.get(name)
        if type_ is None or not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape"):
            return None
        dims = type_.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None

    def value(self, name: str) -> np.ndarray | None:
        """The value of a small tensor that does not depend on the input's values; None otherwise."""
        return self._values.get(name)

    def size_bytes(self, name: str) -> int:
        """Bytes of a tensor; 0 if its shape is unknown or it is no tensor."""
        shape = self.shape(name)
        if shape is None:
            return 0
        return ceil(prod(shape) * element_bits(self._onnx, self._types[name].tensor_type.elem_type) / 8)

    def set_input(self, name: str, elem_type: int, shape: Shape) -> None:
        self._types[name] = self._onnx.helper.make_tensor_type_proto(elem_type, shape)

    def set_constant(self, name: str, tensor: Any) -> None:
        """An initializer or the value of a Constant: its type, and its value if that is small."""
        self._types[name] = self._onnx.helper.make_tensor_type_proto(tensor.data_type, tuple(tensor.dims))
        if prod(tensor.dims) <= _SMALL and tensor.data_type != self._onnx.TensorProto.STRING:
            self._values[name] = self._to_array(tensor)

    def share(self, name: str, of: str) -> None:
        """`name` is the same tensor as `of`."""
        for table in (self._types, self._values):
            if of in table:
                table[name] = table[of]

    def _to_array(self, tensor: Any) -> np.ndarray:
        try:
            return self._onnx.numpy_helper.to_array(tensor, base_dir=str(self._folder))
        except FileNotFoundError as error:
            raise RequestError(f"{error.filename or self._folder}: external data of the ONNX file is missing") from None
        except Exception as error:  # a broken tensor raises many types
            raise RequestError(f"{self._folder}: the ONNX tensor {tensor.name!r} cannot be read ({error})") from None

    def infer(self, node: Any) -> None:
        """Give the outputs of one node their types and, where they can be known, their values."""
        if node.op_type == "Shape" and node.domain in ("", "ai.onnx"):
            self._infer_shape_operator(node)
        elif self._can_compute(node):
            self._compute(node)
        self._infer_types(node)

    def _infer_shape_operator(self, node: Any) -> None:
        shape = self.shape(node.input[0])
        if shape is not None:
            settings = {a.name: a.i for a in node.attribute}
            rank = len(shape)
            start, end = (_clamped(settings.get(key, default), rank) for key, default in (("start", 0), ("end", rank)))
            self._values[node.output[0]] = np.asarray(shape[start:end], np.int64)

    def _can_compute(self, node: Any) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type in _UNKNOWABLE or not node.input:
            return False
        if any(attribute.HasField("g") for attribute in node.attribute):
            return False
        return all(not name or name in self._values for name in node.input)

    def _compute(self, node: Any) -> None:
        from onnx.reference import ReferenceEvaluator

        feeds = {name: self._values[name] for name in node.input if name}
        try:
            results = ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)
        except Exception:  # an operator that the reference lacks: its value stays unknown, its type is inferred below
            return
        for name, result in zip(node.output, results, strict=False):
            if name and isinstance(result, np.ndarray | np.generic) and np.size(result) <= _SMALL:
                self._values[name] = np.asarray(result)

    def _infer_types(self, node: Any) -> None:
        inferred = self._schema_types(node)
        for name in filter(None, node.output):
            if name in inferred:
                self._types[name] = inferred[name]
            if name in self._values and self.shape(name) is None:
                value = self._values[name]
                elem_type = self._onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                self.set_input(name, elem_type, value.shape)
            if self.shape(name) is None and _is_static(self._declared.get(name)):
                self._types[name] = self._declared[name]

    def _schema_types(self, node: Any) -> Mapping[str, Any]:
        onnx = self._onnx
        if node.domain == "com.microsoft" and node.op_type in MICROSOFT_SAME_SHAPE and node.input[0] in self._types:
            return {node.output[0]: self._types[node.input[0]]}
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return {}
        outer = self._outer_names(node)
        if any(name and name not in self._types for name in node.input):
            return {}
        names = [name for name in (*node.input, *outer) if name in self._types]
        data = {name: onnx.numpy_helper.from_array(self._values[name]) for name in node.input if name in self._values}
        try:
            return onnx.shape_inference.infer_node_outputs(
                schema, node, {name: self._types[name] for name in names}, data, opset_imports=self._opset_imports
            )
        except onnx.shape_inference.InferenceError:
            return {}  # the node's outputs have no known shape: what counts them says so

    def _outer_names(self, node: Any) -> Iterable[str]:
        """Tensors of this scope that the bodies of a node read."""
        names: dict[str, None] = {}
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for inner in attribute.g.node:
                    names.update(dict.fromkeys(inner.input))
                    names.update(dict.fromkeys(self._outer_names(inner)))
        return names


def element_bits(onnx: Any, elem_type: int) -> int:
    """Bits of one element of an ONNX element type; 0 for strings."""
    name = onnx.TensorProto.DataType.Name(elem_type)
    if "INT4" in name or "FLOAT4" in name:
        return 4
    if "INT2" in name:
        return 2
    if name in ("STRING", "UNDEFINED"):
        return 0
    return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).itemsize) * 8


def _clamped(index: int, rank: int) -> int:
    return min(max(index + rank if index < 0 else index, 0), rank)


def _is_static(type_: Any) -> bool:
    if type_ is None or not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape"):
        return False
    return all(dim.HasField("dim_value") for dim in type_.tensor_type.shape.dim)
