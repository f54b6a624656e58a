"""Ifs of an ONNX file whose condition does not depend on the data, replaced by the branch that is always taken.

Exporters write them for what the source asked about ranks and sizes ("is this input batched?"). Runtimes, quantisers
and converters stumble over them, and none of them folds a condition that asks for a shape while the batch is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.onnx_files import INLINE_LIMIT_BYTES, save_onnx
from targets.quiet import quiet

EXTRA = "onnx"
# Operators that only move elements: what is known of their input is known of their output.
MOVING = frozenset(("Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))
LARGEST = 4096  # elements: a condition is made of sizes, not of weights
DEPTH = 64  # operators between a constant and a condition


@dataclass(frozen=True)
class _Value:
    """A tensor, and which of its elements are known (a shape's batch is not)."""

    array: np.ndarray
    known: np.ndarray

    @staticmethod
    def whole(array: np.ndarray) -> _Value:
        return _Value(array, np.ones(array.shape, bool))


def without_constant_ifs(path: Path, folder: Path) -> tuple[Path, int]:
    """The file at `path`, or a copy in `folder` without the Ifs that always take one branch, and how many those were.

    It is simplified first, where onnxslim can: sizes that are computed are known only then.
    """
    onnx = require("onnx", EXTRA)
    model = onnx.load(path, load_external_data=False)
    if not _ifs(model) or model.ByteSize() > INLINE_LIMIT_BYTES:
        return path, 0
    model = onnx.load(path)
    before = _ifs(model)
    model = simplified(model)
    fold_ifs(model)
    model = simplified(model)
    if (folded := before - _ifs(model)) <= 0:
        return path, 0
    folder.mkdir()
    save_onnx(model, folder / "model.onnx")
    return folder / "model.onnx", folded


def simplified(model: Any) -> Any:
    """A copy of the model without what onnxslim can compute, inputs and outputs as they were; the model itself where
    onnxslim fails on it or is not installed."""
    try:
        import onnxslim
    except ModuleNotFoundError:
        return model
    copy = type(model)()
    copy.CopyFrom(model)
    try:
        with quiet():
            slim = onnxslim.slim(copy)
    except Exception:  # onnxslim raises whatever its passes raise, and what it does is no must
        return model
    for ours, theirs in ((model.graph.input, slim.graph.input), (model.graph.output, slim.graph.output)):
        if [value.name for value in ours] != [value.name for value in theirs]:
            return model
        del theirs[:]
        theirs.extend(ours)
    return slim


def first_with_body(path: Path) -> str | None:
    """The operator and name of the first node of a file that has graphs inside (If, Loop, Scan), and how many more."""
    graph = require("onnx", EXTRA).load(path, load_external_data=False).graph
    found = [node for node in graph.node if any(True for _ in _bodies(node))]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].op_type} {found[0].name or found[0].output[0]}{more}" if found else None


def _ifs(model: Any) -> int:
    """Ifs of the main graph and of everything inside of it."""

    def count(graph: Any) -> int:
        return sum((node.op_type == "If") + sum(map(count, _bodies(node))) for node in graph.node)

    return count(model.graph)


def fold_ifs(model: Any) -> int:
    """Replace, in place, each If of the main graph that always takes the same branch by the nodes of that branch, also
    those inside of such a branch. Returns how many there were; those that depend on the data stay."""
    count = 0
    while any(node.op_type == "If" for node in model.graph.node):
        known = _Known(model)
        node = next((n for n in model.graph.node if n.op_type == "If" and known.condition(n) is not None), None)
        if node is None:
            break
        _inline(model.graph, node, "then_branch" if known.condition(node) else "else_branch")
        count += 1
    return count


class _Known:
    """What is known of a model's tensors without running it, asked for by name."""

    def __init__(self, model: Any) -> None:
        self.onnx = onnx = require("onnx", EXTRA)
        self.opsets = list(model.opset_import)
        with quiet():
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.shapes: dict[str, list[int | None]] = {
            value.name: [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.HasField("shape")
        }

    def condition(self, node: Any) -> bool | None:
        """Whether an If takes its then branch; None if that depends on the data."""
        value = self._value(node.input[0], DEPTH)
        return bool(value.array.item()) if value is not None and value.array.size == 1 and value.known.all() else None

    def _value(self, name: str, depth: int) -> _Value | None:
        if name in self.constants:
            tensor = self.constants[name]
            small = int(np.prod(tensor.dims)) <= LARGEST and not tensor.external_data
            return _Value.whole(self.onnx.numpy_helper.to_array(tensor)) if small else None
        node = self.made_by.get(name)
        if node is None or not depth or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            return None
        if node.op_type == "Shape":
            return self._shape(node)
        if node.op_type == "Size":
            sizes = self.shapes.get(node.input[0], [None])
            return None if None in sizes else _Value.whole(np.array(np.prod(np.array(sizes, np.int64)), np.int64))
        if any(attribute.type in (5, 10) for attribute in node.attribute):  # it has branches or a body
            return None
        inputs = [self._value(source, depth - 1) if source else None for source in node.input]
        if any(value is None and source for value, source in zip(inputs, node.input, strict=True)):
            return None
        return self._computed(node, inputs)

    def _shape(self, node: Any) -> _Value | None:
        """The sizes of a tensor whose rank is known; an open axis is not known."""
        sizes = self.shapes.get(node.input[0])
        if sizes is None:
            return None
        attributes = {a.name: a.i for a in node.attribute}
        sizes = sizes[attributes.get("start", 0) : attributes.get("end", len(sizes))]
        return _Value(np.array([size or 0 for size in sizes], np.int64), np.array([s is not None for s in sizes], bool))

    def _computed(self, node: Any, inputs: list[_Value | None]) -> _Value | None:
        """What an operator makes of its inputs, by the reference of `onnx`."""
        given = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
        array = self._run(node, {name: value.array for name, value in given.items()})
        if all(value.known.all() for value in given.values()):
            return _Value.whole(array)
        positions = [name for name in node.input[1:] if node.op_type != "Concat" and not given[name].known.all()]
        if node.op_type not in MOVING or positions:
            return None
        masks = {name: value.array for name, value in given.items()}
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        masks |= {name: given[name].known.astype(given[name].array.dtype) for name in moved}
        return _Value(array, self._run(node, masks).astype(bool))

    def _run(self, node: Any, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        helper = self.onnx.helper
        empty = [helper.make_empty_tensor_value_info(name) for name in feeds]
        graph = helper.make_graph([node], "one", empty, [helper.make_empty_tensor_value_info(node.output[0])])
        model = helper.make_model(graph, opset_imports=self.opsets)
        reference = require("onnx.reference", EXTRA).ReferenceEvaluator(model)
        return np.asarray(reference.run(None, dict(feeds))[0])


def _inline(graph: Any, node: Any, taken: str) -> None:
    """Put the nodes of a branch in the place of its If; what the branch makes gets a name of its own."""
    onnx = require("onnx", EXTRA)
    branch = next(attribute.g for attribute in node.attribute if attribute.name == taken)
    stem = node.name or node.output[0]
    own = [tensor.name for tensor in branch.initializer] + [n for inner in branch.node for n in inner.output if n]
    names = {name: f"{stem}/{name}" for name in own}
    for inner in branch.node:
        _rename(inner, names)
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
    copies = [
        onnx.helper.make_node("Identity", [names.get(inside.name, inside.name)], [outside], name=f"{stem}/{outside}")
        for inside, outside in zip(branch.output, node.output, strict=True)
        if outside
    ]
    place = list(graph.node).index(node)
    nodes = [*graph.node[:place], *branch.node, *copies, *graph.node[place + 1 :]]
    initializers = list(branch.initializer)
    kept = [value for value in graph.value_info if value.name not in node.output]
    del graph.value_info[:], graph.node[:]
    graph.node.extend(nodes)
    graph.value_info.extend(kept)
    graph.initializer.extend(initializers)


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Rename what a node, and the graphs inside of it, take and make."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in _bodies(node):
        for value in graph.output:
            value.name = names.get(value.name, value.name)
        for inner in graph.node:
            _rename(inner, names)


def _bodies(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ()
