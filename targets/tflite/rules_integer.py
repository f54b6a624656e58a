"""Forms for operators that the quantiser leaves in float: the same numbers from operators that it can quantise.

Used only where the operator did stay float in an int8 file, named by TFLite's operator: FORMS[kind] has the rules.
"""

from __future__ import annotations

from typing import Any

from targets.tflite.rewrite import DECLINED, Rule, plain
from targets.tflite.rules_layout import _axes, at_least


def negative(x: Any) -> Any:
    return plain(x) * -1.0


def absolute(x: Any) -> Any:
    import torch

    value = plain(x)
    return torch.maximum(value, value * -1.0)


def leaky_relu(x: Any, slope: float = 0.01, *_: Any) -> Any:
    """max(x, slope x), which it is for slopes from 0 to 1."""
    import torch

    if not 0 <= slope <= 1:
        return DECLINED
    value = plain(x)
    return torch.maximum(value, value * slope)


def prelu(x: Any, weight: Any) -> Any:
    value = plain(x)
    if weight.numel() > 1:
        weight = weight.reshape(1, -1, *[1] * (value.ndim - 2))
    return value.relu() - (value * -1.0).relu() * weight


def at_most(value: Any, ceiling: float) -> Any:
    return ceiling - (ceiling - value).relu()


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    import torch

    norm = at_least(x, low, high)
    if norm is not DECLINED:
        return norm
    value = plain(x)
    if low is not None:
        value = value.relu() if low == 0 else torch.maximum(value, torch.full((1,), float(low)))
    return value if high is None else at_most(value, float(high))


def hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
    return clamp(x, low, high)


def relu6(x: Any) -> Any:
    return clamp(x, 0.0, 6.0)


def minimum(x: Any, y: Any) -> Any:
    import torch

    return torch.maximum(plain(x) * -1.0, plain(y) * -1.0) * -1.0


def amax(x: Any, axes: Any = (), keepdim: bool = False) -> Any:
    """The largest of a whole picture is a pooling over all of it."""
    from torch.nn import functional

    value = plain(x)
    if value.ndim != 4 or _axes(axes, 4) != [2, 3]:
        return DECLINED
    pooled = functional.max_pool2d(value, tuple(value.shape[2:]))
    return pooled if keepdim else pooled.flatten(1)


BOUNDS: dict[str, Rule] = {
    "aten.clamp.default": clamp,
    "aten.hardtanh.default": hardtanh,
    "aten.relu6.default": relu6,
    "aten.minimum.default": minimum,
}
FORMS: dict[str, dict[str, Rule]] = {
    "ABS": {"aten.abs.default": absolute},
    "NEG": {"aten.neg.default": negative},
    "LEAKY_RELU": {"aten.leaky_relu.default": leaky_relu},
    "PRELU": {"aten.prelu.default": prelu},
    "GREATER_EQUAL": {"aten.prelu.default": prelu},
    "MINIMUM": BOUNDS,
    "RELU6": BOUNDS,
    "RELU_N1_TO_1": BOUNDS,
    "RELU_0_TO_1": BOUNDS,
    "REDUCE_MAX": {"aten.amax.default": amax},
}
