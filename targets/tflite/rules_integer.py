"""Forms for operators that the quantiser leaves in float: the same numbers from operators that it can quantise.

Used only where the operator did stay float in an int8 file, named by TFLite's operator: FORMS[kind] has the rules.
"""

from __future__ import annotations

from typing import Any

from targets.tflite.forms import Norm, axes_of
from targets.tflite.rewrite import DECLINED, Rule, plain

SIX = (0, 6)


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
    return (value * -1.0 + ceiling).relu() * -1.0 + ceiling


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """A range by a maximum from below and a ReLU from above; 0 to 6 is an operator of its own."""
    import torch

    if isinstance(x, Norm) or not all(isinstance(bound, (int, float)) for bound in (low, high) if bound is not None):
        return DECLINED
    if (low, high) == SIX:
        return DECLINED
    value = plain(x)
    if low is not None:
        value = value.relu() if low == 0 else torch.maximum(value, torch.full((1,), float(low)))
    return value if high is None else at_most(value, float(high))


def hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
    return clamp(x, low, high)


def up_to_six(x: Any, low: Any = 0.0, high: Any = 6.0) -> Any:
    return at_most(plain(x).relu(), 6.0) if (low, high) == SIX else DECLINED


def minimum(x: Any, y: Any) -> Any:
    import torch

    return torch.maximum(plain(x) * -1.0, plain(y) * -1.0) * -1.0


def amax(x: Any, axes: Any = (), keepdim: bool = False) -> Any:
    """The largest of a whole picture is a pooling over all of it."""
    from torch.nn import functional

    value = plain(x)
    if value.ndim != 4 or axes_of(axes, 4) != [2, 3]:
        return DECLINED
    pooled = functional.max_pool2d(value, tuple(value.shape[2:]))
    return pooled if keepdim else pooled.flatten(1)


BOUNDS: dict[str, Rule] = {
    "aten.clamp.default": clamp,
    "aten.hardtanh.default": hardtanh,
    "aten.minimum.default": minimum,
}
UP_TO_SIX: dict[str, Rule] = {
    "aten.clamp.default": up_to_six,
    "aten.hardtanh.default": up_to_six,
    "aten.relu6.default": up_to_six,
}
FORMS: dict[str, dict[str, Rule]] = {
    "ABS": {"aten.abs.default": absolute},
    "NEG": {"aten.neg.default": negative},
    "LEAKY_RELU": {"aten.leaky_relu.default": leaky_relu},
    "PRELU": {"aten.prelu.default": prelu},
    "GREATER_EQUAL": {"aten.prelu.default": prelu},
    "MINIMUM": BOUNDS,
    "RELU_N1_TO_1": BOUNDS,
    "RELU_0_TO_1": BOUNDS,
    "RELU6": UP_TO_SIX,
    "REDUCE_MAX": {"aten.amax.default": amax},
}
