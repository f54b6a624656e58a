"""Rules that always apply: quotients by norms and roots as products with RSQRT, and constants in front of a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from targets.tflite.forms import Norm, Root, axes_of
from targets.tflite.rewrite import DECLINED, Rule, plain


def vector_norm(x: Any, order: Any = 2, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if order != 2 or axes is None or not keepdim or dtype is not None:
        return DECLINED
    value = plain(x)
    return Norm(value, tuple(axes_of(axes, value.ndim)))


def at_least(x: Any, floor: Any = None, ceiling: Any = None) -> Any:
    if not isinstance(x, Norm) or ceiling is not None or not isinstance(floor, (int, float)):
        return DECLINED
    return Norm(x.value, x.axes, max(x.floor, float(floor)))


def expand(x: Any, *size: Any) -> Any:
    return x if isinstance(x, Norm) else DECLINED  # a quotient broadcasts by itself


def divide(x: Any, y: Any) -> Any:
    """x / max(|v|, floor) = x * rsqrt(|v|^2 + floor^2), but where |v| is about `floor`; x / sqrt(v) = x * rsqrt(v)."""
    if isinstance(y, Root):
        return plain(x) * y.value.rsqrt()
    if not isinstance(y, Norm):
        return DECLINED
    squared = y.squared()
    floor = y.floor * y.floor
    return plain(x) * (squared + floor if floor else squared).rsqrt()


def root(x: Any) -> Any:
    return Root(plain(x))


def layer_norm(x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    """(x - mean) * rsqrt(mean((x - mean)^2) + eps): fewer operators than the converter's own form, which subtracts
    mean * rsqrt from x * rsqrt. Where the mean is many times the spread, int8 loses the difference of those two."""
    value = plain(x)
    axes = tuple(range(value.ndim - len(shape), value.ndim))
    centred = value - value.mean(axes, keepdim=True)
    result = centred * ((centred * centred).mean(axes, keepdim=True) + eps).rsqrt()
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def add(x: Any, y: Any, alpha: Any = 1) -> Any:
    return DECLINED if alpha == 1 else plain(x) + plain(y) * alpha


def subtract(x: Any, y: Any, alpha: Any = 1) -> Any:
    return DECLINED if alpha == 1 else plain(x) - plain(y) * alpha


def subtract_from(x: Any, constant: Any, alpha: Any = 1) -> Any:
    """constant - alpha x, without the constant in front: where the layout was turned, litert-torch 0.10 converts
    c - x to x - c and c / x to x / c without a word."""
    return plain(x) * (-1.0 * alpha) + constant


def divide_into(x: Any, constant: Any) -> Any:
    """constant / x, as `subtract_from`. A root's reciprocal is an operator of its own."""
    if isinstance(x, Root):
        return x.value.rsqrt() * constant
    value = plain(x)
    return value / (value * value) * constant


def reciprocal(x: Any) -> Any:
    return divide_into(x, 1.0)


# Operators whose first argument is a constant: what the rules call them then, with the arguments turned.
REVERSED = {"aten.sub.Tensor": "constant - x", "aten.div.Tensor": "constant / x"}
RULES: dict[str, Rule] = {
    "constant - x": subtract_from,
    "constant / x": divide_into,
    "aten.rsub.Scalar": subtract_from,
    "aten.rsub.Tensor": subtract_from,
    "aten.add.Tensor": add,
    "aten.sub.Tensor": subtract,
    "aten.linalg_vector_norm.default": vector_norm,
    "aten.norm.ScalarOpt_dim": vector_norm,
    "aten.clamp_min.default": at_least,
    "aten.clamp.default": at_least,
    "aten.expand_as.default": expand,
    "aten.expand.default": expand,
    "aten.div.Tensor": divide,
    "aten.sqrt.default": root,
    "aten.reciprocal.default": reciprocal,
    "aten.layer_norm.default": layer_norm,
}
