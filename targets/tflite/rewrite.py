"""Rewrite a torch graph, exactly, into forms that TFLite has and can quantise, before it is converted.

The graph of a `torch.export` program is run node by node while it is exported again. A rule (`rules_layout`,
`rules_arithmetic`, `rules_integer`) may answer for an operator, and it may answer with a `Deferred` value: one that is
held in another form (`forms`), because the next operator may want it so. `Line` keeps a (N, C, L) value as
(N, C, 1, L), so that a chain of one-dimensional layers becomes one of two-dimensional layers; `Frames` keeps a film as
a stack of pictures; `Norm` waits for the division that it is usually made for. Where an operator has no rule, values
take their own form again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from profiles.errors import require

Rule = Callable[..., Any]
DECLINED = object()  # a rule's answer where it does not apply


@runtime_checkable
class Deferred(Protocol):
    """A value that is not held in its own form."""

    def force(self) -> Any:
        """The tensor that it stands for."""
        ...


def plain(value: Any) -> Any:
    """A value, or what is inside a list of values, as tensors."""
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value.force() if isinstance(value, Deferred) else value


class Evaluator:
    """Evaluates operators of a graph by their rules. `forms` names the integer forms that are to be used."""

    def __init__(self, forms: Collection[str] = ()) -> None:
        from targets.tflite import rules_arithmetic, rules_layout
        from targets.tflite.rules_integer import FORMS

        always = {**rules_layout.RULES, **rules_arithmetic.RULES}
        self.rules: dict[str, list[Rule]] = {name: [rule] for name, rule in always.items()}
        for form in sorted(forms):
            for name, rule in FORMS[form].items():
                self.rules.setdefault(name, []).append(rule)
        self.pointwise, self.reversed = rules_layout.POINTWISE, rules_arithmetic.REVERSED

    def __call__(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], fixed: bool = False) -> Any:
        """`fixed`: the first argument is a constant, and not all are."""
        name = str(operator)
        if fixed and name in self.reversed:
            operator, args = None, (args[1], args[0], *args[2:])
            name = self.reversed[name]
        held = _common_form(args) if name in self.pointwise else None
        if held is not None:  # the same operator on what is held
            inner = [value.value if isinstance(value, held) else value for value in args]
            like = next(value for value in args if isinstance(value, held))
            return like.with_value(plain(self(operator, inner, kwargs)))
        for rule in self.rules.get(name, ()):
            answer = rule(*args, **kwargs)
            if answer is not DECLINED:
                return answer
        return operator(*plain(list(args)), **{key: plain(value) for key, value in kwargs.items()})


def _common_form(args: Sequence[Any]) -> Any:
    """The class of the deferred arguments, if the others are numbers, or statistics of a channel; else None."""
    from targets.tflite.forms import Frames, Line

    for kind in (Line, Frames):
        if any(isinstance(value, kind) for value in args):
            others = [value for value in args if not isinstance(value, kind)]
            fits = not any(isinstance(value, Deferred) for value in others)
            shaped = [value for value in others if getattr(value, "ndim", 0) > 0]
            return kind if fits and (not shaped or _is_statistics(args)) else None
    return None


def _is_statistics(args: Sequence[Any]) -> bool:
    """Whether everything behind the first argument is a number or a vector, as a batch norm's arguments are."""
    return all(getattr(value, "ndim", 0) <= 1 for value in args[1:]) and len(args) > 4


def rewritten(module: Any, forms: Collection[str] = ()) -> Any:
    """A module that computes what the `GraphModule` of an exported program does, by the rules."""
    require("torch", "train")
    import torch

    evaluator = Evaluator(forms)

    class Rewritten(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:
            return _run(self.inner, inputs, evaluator)

    result = Rewritten()
    for part in (result, *result.modules()):
        part.training = False  # an exported module refuses eval(): its mode is the one that it was exported in
    return result


def _run(module: Any, inputs: Sequence[Any], evaluator: Evaluator) -> list[Any]:
    """Run the nodes in order; gives the flat outputs. What is exported from it keeps the modules' names."""
    from torch.fx import traceback
    from torch.fx.node import map_arg
    from torch.utils._pytree import tree_leaves

    values: dict[Any, Any] = {}
    constant: set[Any] = set()
    feeds = iter(inputs)
    with traceback.preserve_node_meta():
        for node in module.graph.nodes:
            args = map_arg(node.args, values.__getitem__)
            kwargs = map_arg(node.kwargs, values.__getitem__)
            if node.op != "placeholder" and all(source in constant for source in node.all_input_nodes):
                constant.add(node)
            with traceback.set_current_meta(node):
                if node.op == "placeholder":
                    values[node] = next(feeds)
                elif node.op == "get_attr":
                    values[node] = _attribute(module, node.target)
                elif node.op == "call_function":
                    first = node.args[0] if node.args else None
                    fixed = first in constant and node not in constant if hasattr(first, "op") else False
                    values[node] = evaluator(node.target, args, kwargs, fixed)
                elif node.op == "output":
                    return [plain(value) for value in tree_leaves(args, is_leaf=lambda v: isinstance(v, Deferred))]
                else:
                    # torch.export's graphs hold calls of modules only where they check inputs, which is done here
                    values[node] = None
    raise AssertionError("a graph ends with its output")


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
