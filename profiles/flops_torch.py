"""Counts torch modules and exported programs: every node of the torch.export graph by its ATen name.

torch.export keeps layers whole (gru, scaled_dot_product_attention, einsum), knows every shape without running anything,
and names the module that each operator came from. torch is imported inside the functions.
"""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from profiles.errors import RequestError, require
from profiles.flops import Costs
from profiles.flops_ledger import Ledger
from profiles.flops_rules import attention_macs, broadcast, convolution_macs, einsum_macs, matmul_macs, recurrent_macs
from profiles.flops_tables import TORCH_FREE, TORCH_IDENTITY

Shape = tuple[int, ...]
Arguments = Mapping[str, Any]  # by the schema's names; tensors are replaced by their shapes
Rule = Callable[[Arguments, Shape], int]  # arguments, shape of the first output -> MACs

# Higher-order operators that run their body once, on the arguments that follow it.
_TRANSPARENT = {"wrap_with_set_grad_enabled", "wrap_with_autocast", "invoke_subgraph"}


def count_module(module: Any, inputs: Any, batch_axis: int | None) -> Costs:
    """See profiles.flops.count_module."""
    torch = require("torch", "train")
    args, kwargs = _arguments(inputs)
    if batch_axis is not None:
        args, kwargs = torch.utils._pytree.tree_map_only(
            torch.Tensor, lambda tensor: tensor.narrow(batch_axis, 0, 1) if tensor.ndim else tensor, (args, kwargs)
        )
    with _evaluating(module), torch.no_grad():
        try:
            program = torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:  # whatever the module's own code raises, and torch.export's many types
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise RequestError(f"{type(module).__name__} cannot be counted: torch.export: {reason[0]}") from error
    return count_program(program)


def count_program(program: Any) -> Costs:
    """See profiles.flops.count_program."""
    torch = require("torch", "train")
    if isinstance(program, str | Path):
        program = _load(torch, Path(program))
    return _Walk(torch, program).costs()


def _load(torch: Any, path: Path) -> Any:
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it prints the traceback of what it then raises
    try:
        return torch.export.load(path)
    except Exception as error:  # a broken archive or another torch's schema: many types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        version = torch.__version__
        raise RequestError(f"{path}: not a program that torch {version} can load ({reason[0]})") from error
    finally:
        log.setLevel(level)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)), {}


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Every submodule in eval mode, and back to the mode that each had."""
    training = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, mode in training.items():
            child.training = mode


class _Walk:
    """One pass over an exported program."""

    def __init__(self, torch: Any, program: Any) -> None:
        self.torch = torch
        self.ledger = Ledger()
        self.sizes: dict[Any, int] = {}  # symbol of a dynamic axis -> size
        self.parameters: dict[str, tuple[Any, int]] = {}  # placeholder -> (identity, elements)
        self.used: set[Any] = set()  # identities of parameters that a layer has
        self.parts: dict[str, list[str]] = {}  # operator with a body -> the tensors that it gives
        self.inputs: dict[str, Shape] = {}
        self._placeholders(program)
        self.outputs = self._body(program.graph_module, "", {})

    def costs(self) -> Costs:
        return self.ledger.costs(self.outputs, self.inputs)

    def _placeholders(self, program: Any) -> None:
        signature = program.graph_signature
        user_inputs = set(signature.user_inputs)
        for node in program.graph_module.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in signature.inputs_to_parameters:
                weight = program.state_dict[signature.inputs_to_parameters[node.name]]
                # Tied weights are one tensor under several names.
                identity = (weight.data_ptr(), tuple(weight.shape), tuple(weight.stride()))
                self.parameters[node.name] = (identity, weight.numel())
            elif node.name in user_inputs and isinstance(node.meta.get("val"), self.torch.Tensor):
                shape = node.meta["val"].shape
                self._bind_batch(shape)
                self.inputs[node.name] = self._shape(shape)
                self.ledger.tensor(node.name, self._bytes(node.meta["val"]))

    def _bind_batch(self, shape: Sequence[Any]) -> None:
        """A dynamic first axis is the batch, which counts as 1."""
        if shape and isinstance(shape[0], self.torch.SymInt):
            for symbol in shape[0].node.expr.free_symbols:
                self.sizes[symbol] = 1

    def _size(self, size: Any) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr.subs(self.sizes)
        if expression.is_number:
            return int(expression)
        hint = getattr(size.node, "hint", None)
        if hint is None:
            raise RequestError(f"the axis {size} has no known size: export the program with static shapes to count it")
        return int(hint)

    def _shape(self, shape: Sequence[Any]) -> Shape:
        return tuple(self._size(size) for size in shape)

    def _bytes(self, tensor: Any) -> int:
        return prod(self._shape(tensor.shape)) * tensor.element_size()

    def _body(self, graph_module: Any, scope: str, bound: Mapping[str, str]) -> list[str]:
        """Count a graph whose tensors are named `scope` + node; `bound` maps its placeholders to tensors of the caller.

        Gives the names of its outputs."""
        outputs: list[str] = []
        for node in graph_module.graph.nodes:
            if node.op == "placeholder" and node.name in bound:
                self.ledger.alias(scope + node.name, bound[node.name])
            elif node.op == "call_function":
                self._call(graph_module, scope, node)
            elif node.op == "output":
                outputs = [scope + argument.name for argument in node.all_input_nodes]
        return outputs

    def _call(self, graph_module: Any, scope: str, node: Any) -> None:
        name, target = scope + node.name, node.target
        if target is operator.getitem:
            source = scope + node.args[0].name
            self.ledger.alias(name, self.parts[source][node.args[1]] if source in self.parts else source)
        elif isinstance(target, self.torch._ops.HigherOrderOperator):
            self._call_higher_order(graph_module, scope, node)
        elif isinstance(target, self.torch._ops.OpOverload):
            self._call_operator(scope, node)
        # What is left is arithmetic on sizes (operator.mul, math.ceil, torch.sym_max): no tensors.

    def _call_higher_order(self, graph_module: Any, scope: str, node: Any) -> None:
        op = node.target.name()
        bodies = [argument for argument in node.args if getattr(argument, "op", None) == "get_attr"]
        if op not in _TRANSPARENT or len(bodies) != 1:
            self._add(scope, node, op, macs=0, known=False)
            return
        body = getattr(graph_module, bodies[0].target)
        operands = [a for a in node.args[node.args.index(bodies[0]) + 1 :] if isinstance(a, self.torch.fx.Node)]
        placeholders = [inner.name for inner in body.graph.nodes if inner.op == "placeholder"]
        bound = {inner: scope + outer.name for inner, outer in zip(placeholders, operands, strict=True)}
        self.parts[scope + node.name] = self._body(body, f"{scope}{node.name}/", bound)

    def _call_operator(self, scope: str, node: Any) -> None:
        namespace, op = node.target._schema.name.split("::")
        op = op[:-1] if op.endswith("_") else op
        op = op if namespace == "aten" else f"{namespace}::{op}"
        if (self._is_view(node.target) and node.all_input_nodes) or op in TORCH_IDENTITY:
            self.ledger.alias(scope + node.name, scope + node.all_input_nodes[0].name)
            return
        rule = RULES.get(op)
        if rule is not None:
            self._add(scope, node, op, macs=rule(self._bind(node), self._output_shape(node)), known=True)
        else:
            self._add(scope, node, op, macs=0, known=self._is_free(node, op))

    def _is_view(self, target: Any) -> bool:
        return any(given.alias_info is not None and not given.alias_info.is_write for given in target._schema.returns)

    def _is_free(self, node: Any, op: str) -> bool:
        tags = node.target.tags
        tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), self.torch.Tensor | list | tuple)]
        return op in TORCH_FREE or self.torch.Tag.pointwise in tags or self.torch.Tag.reduction in tags or not tensors

    def _bind(self, node: Any) -> Arguments:
        """Arguments by the schema's names, tensors replaced by their shapes."""

        def value(item: Any) -> Any:
            if isinstance(item, list | tuple):
                return [value(part) for part in item]
            if isinstance(item, self.torch.fx.Node):
                item = item.meta["val"]
            if isinstance(item, self.torch.Tensor):
                return self._shape(item.shape)
            return self._size(item) if isinstance(item, self.torch.SymInt) else item

        names = [argument.name for argument in node.target._schema.arguments]
        return {key: value(item) for key, item in (*zip(names, node.args, strict=False), *node.kwargs.items())}

    def _tensors(self, node: Any) -> list[Any]:
        value = node.meta.get("val")
        values = value if isinstance(value, list | tuple) else [value]
        return [item for item in values if isinstance(item, self.torch.Tensor)]

    def _output_shape(self, node: Any) -> Shape:
        tensors = self._tensors(node)
        return self._shape(tensors[0].shape) if tensors else ()

    def _add(self, scope: str, node: Any, op: str, *, macs: int, known: bool) -> None:
        name = scope + node.name
        reads = [scope + read.name for read in node.all_input_nodes]
        writes = {}
        if op in TORCH_IDENTITY or self._writes_in_place(node.target):
            self.ledger.alias(name, reads[0])
        else:
            writes[name] = sum(self._bytes(tensor) for tensor in self._tensors(node))
        if not known:
            self.ledger.not_counted(op)
        self.ledger.layer(
            _module_of(node) or node.name,
            op,
            macs=macs,
            parameters=sum(self._take_parameters(self.ledger.root(read)) for read in reads),
            reads=reads,
            writes=writes,
            output_shape=self._output_shape(node),
            keep=not known,
        )

    def _writes_in_place(self, target: Any) -> bool:
        returns = target._schema.returns if isinstance(target, self.torch._ops.OpOverload) else ()
        return any(given.alias_info is not None and given.alias_info.is_write for given in returns)

    def _take_parameters(self, root: str) -> int:
        """The elements of a parameter, for the first layer that uses it; 0 for the next ones and for other tensors."""
        identity, elements = self.parameters.get(root, (None, 0))
        if identity is None or identity in self.used:
            return 0
        self.used.add(identity)
        return elements


def _module_of(node: Any) -> str:
    """The path of the module that a node came from, "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")


def _convolution(a: Arguments, out: Shape) -> int:
    return convolution_macs(out[0], a["weight"], out[2 - (len(out) < len(a["weight"])) :])


def _transposed_convolution(a: Arguments, out: Shape) -> int:
    return convolution_macs(out[0], a["weight"], a["input"][2 - (len(out) < len(a["weight"])) :])


def _any_convolution(a: Arguments, out: Shape) -> int:
    return (_transposed_convolution if a["transposed"] else _convolution)(a, out)


def _linear(a: Arguments, out: Shape) -> int:
    return prod(a["input"]) * prod(a["weight"][:-1])


def _matmul(first: str, second: str) -> Rule:
    return lambda a, out: matmul_macs(a[first], a[second])


def _attention(a: Arguments, out: Shape) -> int:
    return attention_macs(a["query"], a["key"], a["value"])


def _recurrent(data: str, weights: str) -> Rule:
    return lambda a, out: recurrent_macs(prod(a[data][:-1]), a[weights])


def _cell(a: Arguments, out: Shape) -> int:
    return recurrent_macs(prod(a["input"][:-1]), [a["w_ih"], a["w_hh"]])


def _tensordot(a: Arguments, out: Shape) -> int:
    return prod(out) * prod(a["self"][axis] for axis in a["dims_self"])


def _bilinear(a: Arguments, out: Shape) -> int:
    # out[n, k] = sum_i sum_j x1[n, i] W[k, i, j] x2[n, j]: first over i for every j, then over j.
    features, left, right = a["weight"]
    return prod(out[:-1]) * features * (left * right + right)


def _pairwise(a: Arguments, out: Shape) -> int:
    return prod(broadcast(a["x1"][:-2], a["x2"][:-2])) * a["x1"][-2] * a["x2"][-2] * a["x1"][-1]


RULES: dict[str, Rule] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed_convolution,
    "conv_transpose2d": _transposed_convolution,
    "conv_transpose3d": _transposed_convolution,
    "convolution": _any_convolution,
    "_convolution": _any_convolution,
    "torchvision::deform_conv2d": lambda a, out: convolution_macs(out[0], a["weight"], out[2:]),
    "linear": _linear,
    "mm": _matmul("self", "mat2"),
    "bmm": _matmul("self", "mat2"),
    "matmul": _matmul("self", "other"),
    "linalg_matmul": _matmul("input", "other"),
    "addmm": _matmul("mat1", "mat2"),
    "baddbmm": _matmul("batch1", "batch2"),
    "addbmm": _matmul("batch1", "batch2"),
    "mv": _matmul("self", "vec"),
    "addmv": _matmul("mat", "vec"),
    "dot": _matmul("self", "tensor"),
    "vdot": _matmul("self", "other"),
    "inner": lambda a, out: prod(out) * a["self"][-1],
    "linalg_vecdot": lambda a, out: prod(broadcast(a["x"], a["y"])),
    "tensordot": _tensordot,
    "einsum": lambda a, out: einsum_macs(a["equation"], a["tensors"]),
    "bilinear": _bilinear,
    "cdist": _pairwise,
    "_cdist_forward": _pairwise,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_attention_math": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "gru": _recurrent("input", "params"),
    "lstm": _recurrent("input", "params"),
    "rnn_tanh": _recurrent("input", "params"),
    "rnn_relu": _recurrent("input", "params"),
    "gru_cell": _cell,
    "lstm_cell": _cell,
    "rnn_tanh_cell": _cell,
    "rnn_relu_cell": _cell,
}
