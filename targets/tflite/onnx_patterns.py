"""Activations that ONNX files have written out in small operators, found and given their name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from profiles.errors import require
from targets.tflite.schema import EXTRA

RELATIVE = 1e-6


def name_hard_swish(model: Any) -> int:
    """Replace x * clip(x + 3, 0, 6) / 6, in whatever order it is multiplied, and x * hardsigmoid(x) of slope 1/6, by
    HardSwish. Returns how many there were."""
    onnx = require("onnx", EXTRA)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    found = []
    for node in model.graph.node:
        match = _whole(node, makers, values, uses)
        if match is not None:
            source, inner = match
            new = onnx.helper.make_node("HardSwish", [source], [node.output[0]], name=node.name)
            found.append((node, new, inner))
    gone = {id(node) for _, _, inner in found for node in inner}
    replaced = {id(node): new for node, new, _ in found}
    kept = [replaced.get(id(node), node) for node in model.graph.node if id(node) not in gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return len(found)


def _whole(
    node: Any, makers: Mapping[str, Any], values: Mapping[str, Any], uses: Counter[str]
) -> tuple[str, list[Any]] | None:
    """(x, the nodes before) if `node` is the last one of a hard swish. Inner values have no other reader."""
    for scale, product, outer in _behind(node, makers, values):
        if product.op_type != "Mul":
            continue
        for source, gate in (product.input, reversed(product.input)):
            for factor, bound, passed in _behind(makers.get(gate), makers, values):
                ends = _bounded(bound, makers, values)
                if ends is None or ends[0] != source or not np.isclose(scale * factor * ends[1], 1.0, rtol=RELATIVE):
                    continue
                inner = [n for n in (*outer, product, *passed, bound, *ends[2]) if n is not node]
                if all(uses[name] == 1 for n in inner for name in n.output):
                    return source, inner
    return None


def _behind(node: Any, makers: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[float, Any, list[Any]]]:
    """(1, node, nothing), and if it is a product with a constant (the constant, what is multiplied, the product)."""
    if node is None:
        return
    yield 1.0, node, []
    for i in {"Mul": (0, 1), "Div": (1,)}.get(node.op_type, ()):
        constant, below = _number(values.get(node.input[i])), makers.get(node.input[1 - i])
        if constant and below is not None:
            yield constant if node.op_type == "Mul" else 1 / constant, below, [node]


def _bounded(node: Any, makers: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, float, list[Any]] | None:
    """(x, factor, nodes before) if `node` is factor * hardsigmoid(x) of slope 1/6; that of clip(x + 3, 0, 6) is 6."""
    onnx = require("onnx", EXTRA)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "HardSigmoid":
        slope, offset = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
        fits = np.isclose(slope, 1 / 6, rtol=1e-4) and offset == 0.5
        return (node.input[0], 1.0, []) if fits else None
    if node.op_type != "Clip":
        return None
    ends = [attributes.get(name) for name in ("min", "max")]
    for i, name in enumerate(node.input[1:3]):
        ends[i] = _number(values.get(name))
    shift = makers.get(node.input[0])
    if ends != [0.0, 6.0] or shift is None or shift.op_type != "Add":
        return None
    for i in (0, 1):
        if _number(values.get(shift.input[i])) == 3.0:
            return shift.input[1 - i], 6.0, [shift]
    return None


def _number(tensor: Any) -> float | None:
    """The value of a constant of one element."""
    if tensor is None:
        return None
    array = require("onnx", EXTRA).numpy_helper.to_array(tensor)
    return float(array.reshape(())) if array.size == 1 else None
