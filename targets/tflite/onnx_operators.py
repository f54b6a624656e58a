"""ONNX operators in torch that onnx2torch lacks, or whose shapes it reads from tensors, which cannot be exported.

Each function gets the node's attributes and constants, and gives a function of its tensors. Semantics: the operators'
text in the ONNX specification, opset 24 (older forms of the same operator are read as well).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Function = Callable[..., Any]


class UnsupportedForm(Exception):
    """A form of a known operator that cannot be mapped; the message says which."""


@dataclass(frozen=True)
class Node:
    """What a maker sees of a node: attributes as Python values, constants by input position, and how many outputs."""

    attributes: Mapping[str, Any]
    constants: Mapping[int, np.ndarray]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def numbers(self, position: int, name: str = "") -> list[int] | None:
        """Integers of a constant input, or of the attribute that older opsets have; None if there are neither."""
        if position in self.constants:
            return [int(value) for value in np.atleast_1d(self.constants[position])]
        value = self.attributes.get(name)
        return None if value is None else [int(item) for item in value]

    def needed(self, position: int, name: str) -> list[int]:
        """As `numbers`, for what cannot be left out."""
        found = self.numbers(position, name)
        if found is None:
            raise UnsupportedForm(f"without {name}")
        return found


Maker = Callable[[Node], Function]


@dataclass(frozen=True)
class Operator:
    """`constants`: positions of the inputs that must be constant, since they are shapes, axes or sizes."""

    make: Maker
    constants: tuple[int, ...]


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, constants: tuple[int, ...] = ()) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        for name in names:
            OPERATORS[name] = Operator(make, constants)
        return make

    return register


# -- shapes ------------------------------------------------------------------------------------------------------------


@operator("Reshape", constants=(1,))
def _reshape(node: Node) -> Function:
    shape = node.needed(1, "shape")
    if node.get("allowzero", 0):
        return lambda x: x.reshape(shape)
    return lambda x: x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


@operator("Expand", constants=(1,))
def _expand(node: Node) -> Function:
    import torch

    shape = node.needed(1, "shape")
    return lambda x: x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile", constants=(1,))
def _tile(node: Node) -> Function:
    repeats = node.needed(1, "repeats")
    return lambda x: x.repeat(repeats)


@operator("Squeeze", constants=(1,))
def _squeeze(node: Node) -> Function:
    axes = node.numbers(1, "axes")
    return lambda x: x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze", constants=(1,))
def _unsqueeze(node: Node) -> Function:
    axes = node.needed(1, "axes")

    def unsqueeze(x: Any) -> Any:
        for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


@operator("Slice", constants=(1, 2, 3, 4))
def _slice(node: Node) -> Function:
    starts, ends = node.needed(1, "starts"), node.needed(2, "ends")
    axes = node.numbers(3, "axes") or list(range(len(starts)))
    steps = node.numbers(4) or [1] * len(starts)

    def cut(x: Any) -> Any:
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            axis, size = axis % x.ndim, x.shape[axis]
            first, last, _ = slice(start, end, step).indices(size)
            if step < 0:  # torch has no negative steps: mirror, and count from the other end
                x, first, last = x.flip(axis), size - 1 - first, size - 1 - last
            x = x[(slice(None),) * axis + (slice(first, last, abs(step)),)]
        return x

    return cut


@operator("Split", constants=(1,))
def _split(node: Node) -> Function:
    sizes, axis = node.numbers(1, "split"), node.get("axis", 0)
    parts = node.get("num_outputs", node.outputs)

    def split(x: Any) -> Any:
        if sizes is not None:
            return x.split(sizes, axis)
        return x.split(-(-x.shape[axis] // parts), axis)

    return split


@operator("Pad", constants=(1, 2, 3))
def _pad(node: Node) -> Function:
    from torch.nn import functional

    pads, mode = node.needed(1, "pads"), node.get("mode", "constant")
    value = float(node.constants[2]) if node.constants.get(2, np.empty(0)).size else float(node.get("value", 0.0))
    named = node.numbers(3)
    torch_mode = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode]

    def pad(x: Any) -> Any:
        axes = [axis % x.ndim for axis in named] if named else list(range(x.ndim))
        around = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
        last = [axis for axis in range(x.ndim) if around.get(axis, (0, 0)) != (0, 0)]
        if not last:
            return x
        first = min(last) if torch_mode == "constant" else min(2, min(last))
        flat = [size for axis in range(x.ndim - 1, first - 1, -1) for size in around.get(axis, (0, 0))]
        if torch_mode == "constant":
            return functional.pad(x, flat, "constant", value)
        return functional.pad(x, flat, torch_mode)

    return pad


@operator("SpaceToDepth")
def _space_to_depth(node: Node) -> Function:
    block = node.get("blocksize")

    def rearrange(x: Any) -> Any:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * block * block, h // block, w // block)

    return rearrange


@operator("Trilu", constants=(1,))
def _trilu(node: Node) -> Function:
    diagonal = (node.numbers(1) or [0])[0]
    return lambda x: x.triu(diagonal) if node.get("upper", 1) else x.tril(diagonal)


@operator("CumSum", constants=(1,))
def _cumsum(node: Node) -> Function:
    (axis,) = node.needed(1, "axis")
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise UnsupportedForm("exclusive or reverse")
    return lambda x: x.cumsum(axis)


# -- picking -----------------------------------------------------------------------------------------------------------


@operator("Gather")
def _gather(node: Node) -> Function:
    """Rows of a table by ids (an embedding), a single place of an axis, or places that are constant."""
    from torch.nn import functional

    axis, fixed = node.get("axis", 0), node.constants.get(1)
    if fixed is not None and fixed.ndim == 0:
        return lambda x: x.select(axis, int(fixed) % x.shape[axis])

    def gather(x: Any, ids: Any) -> Any:
        if axis % x.ndim == 0 and x.ndim == 2:
            return functional.embedding(ids, x)
        before, behind = x.shape[: axis % x.ndim], x.shape[axis % x.ndim + 1 :]
        return x.index_select(axis, ids.flatten()).reshape(*before, *ids.shape, *behind)

    return gather


# -- sizes of pictures -------------------------------------------------------------------------------------------------


@operator("Resize", "Upsample", constants=(1, 2, 3))
def _resize(node: Node) -> Function:
    from torch.nn import functional

    scales, sizes = _resize_sizes(node)
    mode = node.get("mode", "nearest")
    transform = node.get("coordinate_transformation_mode", "half_pixel" if "mode" in node.attributes else "asymmetric")
    align = transform == "align_corners"

    def resize(x: Any) -> Any:
        wanted = sizes or [int(np.floor(size * scale)) for size, scale in zip(x.shape, scales, strict=True)]
        if list(x.shape[:2]) != wanted[:2] or x.ndim != 4:
            raise UnsupportedForm("of other axes than height and width")
        factors = [after / before for before, after in zip(x.shape[2:], wanted[2:], strict=True)]
        if mode == "nearest":
            # every rule of rounding and every transformation agree where pixels are repeated a whole number of times
            if any(factor != int(factor) for factor in factors):
                raise UnsupportedForm("to the nearest pixel by a factor that is no whole number")
            return functional.interpolate(x, size=wanted[2:], mode="nearest")
        if mode != "linear" or not (align or transform in ("half_pixel", "pytorch_half_pixel")):
            raise UnsupportedForm(f"in mode {mode} with {transform}")
        return functional.interpolate(x, size=wanted[2:], mode="bilinear", align_corners=align)

    return resize


def _resize_sizes(node: Node) -> tuple[list[float], list[int] | None]:
    """(scales, sizes): one of them counts. Inputs are (roi,) scales, sizes; of the oldest form scales alone."""
    found = node.constants
    sizes = [int(value) for value in found[3]] if found.get(3, np.empty(0)).size else None
    scales = found.get(2, np.empty(0))
    if not scales.size and 2 not in found and 1 in found:
        scales = found[1]
    if sizes is None and not scales.size:
        raise UnsupportedForm("without constant scales or sizes")
    return [float(value) for value in scales], sizes


# -- reductions --------------------------------------------------------------------------------------------------------


def _reduction(reduce: Callable[[Any, tuple[int, ...], bool], Any]) -> Maker:
    def make(node: Node) -> Function:
        axes, keep = node.numbers(1, "axes"), bool(node.get("keepdims", 1))
        if not axes and node.get("noop_with_empty_axes", 0):
            return lambda x: x

        def run(x: Any) -> Any:
            return reduce(x, tuple(axis % x.ndim for axis in axes) if axes else tuple(range(x.ndim)), keep)

        return run

    return make


REDUCTIONS: dict[str, Callable[[Any, tuple[int, ...], bool], Any]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}
for _name, _reduce in REDUCTIONS.items():
    operator(_name, constants=(1,))(_reduction(_reduce))


@operator("GlobalMaxPool")
def _global_max_pool(node: Node) -> Function:
    return lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalAveragePool")
def _global_average_pool(node: Node) -> Function:
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


# -- activations and normalisations ------------------------------------------------------------------------------------


@operator("Gelu")
def _gelu(node: Node) -> Function:
    from torch.nn import functional

    approximate = node.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


@operator("Mish")
def _mish(node: Node) -> Function:
    from torch.nn import functional

    return functional.mish


@operator("HardSwish")
def _hard_swish(node: Node) -> Function:
    from torch.nn import functional

    return functional.hardswish


@operator("HardSigmoid")
def _hard_sigmoid(node: Node) -> Function:
    """max(0, min(1, alpha x + beta)), six times as large inside: TFLite has a bound of six as part of its operators."""
    from torch.nn import functional

    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: functional.relu6(x * (6 * alpha) + 6 * beta) * (1 / 6)


@operator("LayerNormalization")
def _layer_normalization(node: Node) -> Function:
    from torch.nn import functional

    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    return lambda x, scale, bias=None: functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


@operator("RMSNormalization")
def _rms_normalization(node: Node) -> Function:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    def normalize(x: Any, scale: Any) -> Any:
        axes = tuple(range(axis % x.ndim, x.ndim))
        return x * ((x * x).mean(axes, keepdim=True) + epsilon).rsqrt() * scale

    return normalize


@operator("GroupNormalization")
def _group_normalization(node: Node) -> Function:
    from torch.nn import functional

    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)

    def normalize(x: Any, scale: Any, bias: Any) -> Any:
        repeats = x.shape[1] // scale.shape[0]  # opset 18 has one scale per group, opset 21 one per channel
        scale, bias = (value.repeat_interleave(repeats) for value in (scale, bias))
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return normalize


@operator("LpNormalization")
def _lp_normalization(node: Node) -> Function:
    axis, order = node.get("axis", -1), node.get("p", 2)
    return lambda x: x / x.norm(p=order, dim=axis, keepdim=True)


# -- comparisons -------------------------------------------------------------------------------------------------------


@operator("GreaterOrEqual")
def _greater_or_equal(node: Node) -> Function:
    return lambda x, y: x >= y


@operator("LessOrEqual")
def _less_or_equal(node: Node) -> Function:
    return lambda x, y: x <= y


def attribute_values(attributes: Sequence[Any], helper: Any) -> dict[str, Any]:
    """Attributes of an ONNX node by name, strings decoded."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in attributes}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
