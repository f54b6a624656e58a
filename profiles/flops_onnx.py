"""Counts ONNX files: every node of the graph by its operator's name. Only `onnx` is needed, inside the functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from profiles.errors import RequestError, require
from profiles.flops import Costs
from profiles.flops_ledger import Ledger
from profiles.flops_onnx_shapes import Shape, Shapes, element_bits
from profiles.flops_rules import attention_macs, convolution_macs, einsum_macs, matmul_macs, recurrent_macs
from profiles.flops_tables import MICROSOFT_SAME_SHAPE, ONNX_FREE, ONNX_SETTINGS, ONNX_VIEWS

Attributes = Mapping[str, Any]
# Shapes of the inputs (None: left out or unknown), of the first output, attributes -> MACs. A rule that needs a shape
# that is None raises UnknownShapeError.
Rule = Callable[[list[Shape | None], Shape | None, Attributes], int]


def count_onnx(path: Path, shapes: Mapping[str, Sequence[int] | int]) -> Costs:
    """See profiles.flops.count_onnx."""
    onnx = require("onnx", "onnx")
    return _Walk(onnx, _load(onnx, path), path, shapes).costs()


def _load(onnx: Any, path: Path) -> Any:
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's decoders raise types of their own
        raise RequestError(f"{path}: not a readable ONNX file ({error})") from None
    if not model.graph.node and not model.graph.output:
        raise RequestError(f"{path}: not a readable ONNX file (it has no graph)")
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return model


class UnknownShapeError(Exception):
    """A rule needs a shape that could not be inferred."""


class _Walk:
    """One pass over an ONNX graph."""

    def __init__(self, onnx: Any, model: Any, path: Path, shapes: Mapping[str, Sequence[int] | int]) -> None:
        self.onnx = onnx
        self.ledger = Ledger()
        self.shapes = Shapes(onnx, model, path.parent)
        # Tensors that depend on weights only -> the trained tensors in them, as (name, elements).
        self.static: dict[str, frozenset[tuple[str, int]]] = {}
        self.used: set[str] = set()
        graph = model.graph
        self._constants(graph.initializer)
        self.inputs = self._inputs(path, graph, shapes)
        self._nodes(graph.node)
        self.outputs = [output.name for output in graph.output]

    def costs(self) -> Costs:
        return self.ledger.costs(self.outputs, self.inputs)

    def _constants(self, tensors: Sequence[Any]) -> None:
        for tensor in tensors:
            self._constant(tensor.name, tensor)

    def _constant(self, name: str, tensor: Any) -> None:
        self.shapes.set_constant(name, tensor)
        trained = len(tensor.dims) >= 1 and self._may_be_trained(tensor.data_type)
        self.static[name] = frozenset({(name, prod(tensor.dims))} if trained else ())

    def _may_be_trained(self, data_type: int) -> bool:
        name = self.onnx.TensorProto.DataType.Name(data_type)
        narrow = "INT" in name and element_bits(self.onnx, data_type) <= 8
        # int32 is what biases of quantised layers are stored in; `_parameters` looks at who reads them.
        return "FLOAT" in name or name == "DOUBLE" or narrow or name == "INT32"

    def _inputs(self, path: Path, graph: Any, shapes: Mapping[str, Sequence[int] | int]) -> dict[str, Shape]:
        real = [value for value in graph.input if value.name not in self.static]
        _check_names(path, real, shapes)
        found: dict[str, Shape] = {}
        for value in real:
            if not value.type.HasField("tensor_type"):
                continue  # sequences and optionals have no shape; what reads them has an unknown one
            shape = _input_shape(path, value, shapes)
            self.shapes.set_input(value.name, value.type.tensor_type.elem_type, shape)
            self.ledger.tensor(value.name, self.shapes.size_bytes(value.name))
            found[value.name] = shape
        return found

    def _nodes(self, nodes: Sequence[Any]) -> None:
        for node in nodes:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._constant_node(node)
            elif any(attribute.HasField("g") for attribute in node.attribute):
                self._control_flow(node)
            else:
                self._operator(node)

    def _constant_node(self, node: Any) -> None:
        attribute = node.attribute[0]
        if attribute.name == "value":
            self._constant(node.output[0], attribute.t)
        else:
            self.shapes.infer(node)
            value = self.onnx.helper.get_attribute_value(attribute)
            if attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                import numpy as np

                dtype = np.int64 if "int" in attribute.name else np.float32
                self._constant(node.output[0], self.onnx.numpy_helper.from_array(np.asarray(value, dtype)))
            self.static.setdefault(node.output[0], frozenset())

    def _control_flow(self, node: Any) -> None:
        """An If whose condition is known is its branch; the rest is listed with what is inside."""
        condition = self.shapes.value(node.input[0]) if node.op_type == "If" else None
        if condition is not None:
            wanted = "then_branch" if condition.reshape(-1)[0] else "else_branch"
            branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
            self._constants(branch.initializer)
            self._nodes(branch.node)
            for name, inner in zip(node.output, branch.output, strict=False):
                self.shapes.share(name, inner.name)
                self.ledger.alias(name, inner.name)
                if inner.name in self.static:
                    self.static[name] = self.static[inner.name]
            return
        self.shapes.infer(node)
        inside = [op for attribute in node.attribute for op in _costly(attribute.g)]
        for op in inside:
            self.ledger.not_counted(f"{node.op_type}: {op}")
        self._add(node, macs=0, keep=bool(inside))

    def _operator(self, node: Any) -> None:
        self.shapes.infer(node)
        known = bool(node.output) and all(self.shapes.value(name) is not None for name in node.output if name)
        if known or (node.input and all(not name or name in self.static for name in node.input)):
            # Arithmetic on weights or shapes alone: runtimes do it once, not per input.
            trained = frozenset[tuple[str, int]]().union(*(self._trained(node)))
            self.static.update({name: trained for name in node.output if name})
            return
        rule = self._rule(node)
        if rule is None:
            known = node.op_type in (MICROSOFT_SAME_SHAPE if _contrib(node) else ONNX_FREE) and _known_domain(node)
            if not known:
                self.ledger.not_counted(_full_name(node))
            self._add(node, macs=0, keep=not known)
            return
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [self.shapes.shape(name) if name else None for name in node.input]
        try:
            macs = rule(inputs, self.shapes.shape(node.output[0]), attributes)
        except UnknownShapeError:
            self.ledger.not_counted(f"{_full_name(node)} (unknown shape)")
            self._add(node, macs=0, keep=True)
            return
        self._add(node, macs=macs)

    def _rule(self, node: Any) -> Rule | None:
        return (MICROSOFT_RULES if _contrib(node) else RULES).get(node.op_type) if _known_domain(node) else None

    def _trained(self, node: Any) -> Iterator[frozenset[tuple[str, int]]]:
        """What is trained in each input that is made of weights only."""
        settings = ONNX_SETTINGS.get(node.op_type, frozenset())
        for position, name in enumerate(node.input):
            if name in self.static and position not in settings:
                # A single number of an elementwise operator is a constant of a formula, not a weight.
                yield frozenset(item for item in self.static[name] if item[1] > 1 or self._rule(node))

    def _parameters(self, node: Any) -> int:
        fresh = {item for items in self._trained(node) for item in items if item[0] not in self.used}
        self.used.update(name for name, _ in fresh)
        return sum(elements for _, elements in fresh)

    def _add(self, node: Any, *, macs: int, keep: bool = False) -> None:
        outputs = [name for name in node.output if name]
        writes = {name: self.shapes.size_bytes(name) for name in outputs}
        if node.op_type in ONNX_VIEWS and outputs and node.input:
            self.ledger.alias(outputs[0], node.input[0])
            del writes[outputs[0]]
        self.ledger.layer(
            node.name or (outputs[0] if outputs else node.op_type),
            _full_name(node),
            macs=macs,
            parameters=self._parameters(node),
            reads=[name for name in node.input if name],
            writes=writes,
            output_shape=(self.shapes.shape(outputs[0]) if outputs else None) or (),
            keep=keep,
        )


def _contrib(node: Any) -> bool:
    return node.domain == "com.microsoft"


def _known_domain(node: Any) -> bool:
    return node.domain in ("", "ai.onnx", "com.microsoft")


def _full_name(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _costly(graph: Any) -> Iterator[str]:
    """Names of the operators in a body, and in the bodies inside it, that are not free by convention."""
    for node in graph.node:
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if bodies:
            for body in bodies:
                yield from _costly(body)
        elif node.domain not in ("", "ai.onnx") or node.op_type not in ONNX_FREE:
            yield _full_name(node)


def _check_names(path: Path, values: Sequence[Any], shapes: Mapping[str, Any]) -> None:
    inputs = {value.name for value in values}
    axes = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param}
    for name in shapes:
        if name not in inputs | axes:
            known = f"inputs {', '.join(sorted(inputs))}" + (f"; axes {', '.join(sorted(axes))}" if axes else "")
            raise RequestError(f"{path}: no input or axis {name!r} to give a shape to ({known})")


def _input_shape(path: Path, value: Any, shapes: Mapping[str, Sequence[int] | int]) -> Shape:
    given = shapes.get(value.name)
    if not value.type.tensor_type.HasField("shape") and given is None:
        raise RequestError(f"{path}: input {value.name!r} has no shape in the file: give one")
    dims = value.type.tensor_type.shape.dim
    if given is not None:
        shape = tuple(given) if isinstance(given, Sequence) else (given,)
        declared = tuple(_static_size(dim) for dim in dims)
        fits = len(shape) == len(declared) and all(d in (None, s) for d, s in zip(declared, shape, strict=True))
        if value.type.tensor_type.HasField("shape") and not fits:
            raise RequestError(f"{path}: input {value.name!r} has the shape {_words(dims)}; {list(shape)} does not fit")
        return shape
    return tuple(_axis(path, value.name, index, dim, shapes) for index, dim in enumerate(dims))


def _axis(path: Path, name: str, index: int, dim: Any, shapes: Mapping[str, Any]) -> int:
    if (static := _static_size(dim)) is not None:
        return static
    size = shapes.get(dim.dim_param) if dim.dim_param else None
    if size is not None:
        return int(size)
    if index == 0 or dim.dim_param == "batch":
        return 1
    label = f"{index} ({dim.dim_param!r})" if dim.dim_param else str(index)
    raise RequestError(f"{path}: axis {label} of input {name!r} is dynamic: give its size, or the input's shape")


def _static_size(dim: Any) -> int | None:
    """The size of an axis; None if it is dynamic, which some exporters write as -1 or 0."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _words(dims: Any) -> list[int | str]:
    return [_static_size(dim) or dim.dim_param or "?" for dim in dims]


def _need(shape: Shape | None) -> Shape:
    if shape is None:
        raise UnknownShapeError
    return shape


def _convolution(data: int, weight: int, transposed: bool = False) -> Rule:
    def macs(inputs: list[Shape | None], out: Shape | None, attributes: Attributes) -> int:
        x, positions = _need(inputs[data]), _need(inputs[data] if transposed else out)
        return convolution_macs(x[0], _need(inputs[weight]), positions[2:])

    return macs


def _matmul(a: int, b: int) -> Rule:
    return lambda inputs, out, attributes: matmul_macs(_need(inputs[a]), _need(inputs[b]))


def _gemm(inputs: list[Shape | None], out: Shape | None, attributes: Attributes) -> int:
    a, b = _need(inputs[0]), _need(inputs[1])
    return prod(a) * (b[0] if attributes.get("transB", 0) else b[1])


def _recurrent(inputs: list[Shape | None], out: Shape | None, attributes: Attributes) -> int:
    # X is (time, batch, in), or with layout 1 (batch, time, in); W is (directions, gates x H, in), R (.., H).
    x, w, r = (_need(shape) for shape in inputs[:3])
    return recurrent_macs(x[0] * x[1], [w[1:], r[1:]] * w[0])


def _einsum(inputs: list[Shape | None], out: Shape | None, attributes: Attributes) -> int:
    return einsum_macs(attributes["equation"].decode(), [_need(shape) for shape in inputs])


def _attention(inputs: list[Shape | None], out: Shape | None, attributes: Attributes) -> int:
    """Attention of opset 23: (batch, heads, length, size), or (batch, length, heads x size) and heads as attributes."""
    q, k, v = (_need(shape) for shape in inputs[:3])
    if len(q) == 3:
        heads, shared = attributes["q_num_heads"], attributes["kv_num_heads"]
        q = (q[0], heads, q[1], q[2] // heads)
        k, v = ((s[0], shared, s[1], s[2] // shared) for s in (k, v))
    past = _need(inputs[4])[2] if len(inputs) > 4 and inputs[4] is not None else 0
    return attention_macs(q, (*k[:2], k[2] + past, k[3]), v)


RULES: dict[str, Rule] = {
    "Conv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "ConvTranspose": _convolution(0, 1, transposed=True),
    "DeformConv": _convolution(0, 1),
    "Gemm": _gemm,
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
    "Attention": _attention,
}

# Operators that ONNX Runtime's own optimiser and quantiser write.
MICROSOFT_RULES: dict[str, Rule] = {
    "FusedConv": _convolution(0, 1),
    "FusedGemm": _gemm,
    "DynamicQuantizeMatMul": _matmul(0, 1),
    "MatMulIntegerToFloat": _matmul(0, 1),
}
