"""TFLite's fixed-point numbers at generation time: multipliers, activation ranges, and gemmlowp's rounding in numpy.

Sources: tensorflow/lite/kernels/internal/{quantization_util.cc,common.cc}, tensorflow/lite/kernels/kernel_util.cc of
TFLite-Micro, and gemmlowp's fixedpoint.h. Everything here is double rounding, TFLite-Micro's default.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from targets.c.lowering import UnsupportedOperator
from targets.tflite.schema import Operator, Tensor

RELU, RELU_N1_TO_1, RELU6 = 1, 2, 3  # schema's ActivationFunctionType
LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A real number >= 0 as (multiplier, shift): real = multiplier * 2^(shift - 31), 2^30 <= multiplier < 2^31.

    `QuantizeMultiplier`: (0, 0) for 0 and for what is below 2^-32.
    """
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def scale_of(tensor: Tensor, operator: Operator) -> np.float32:
    """The scale of a tensor with one. Raises UnsupportedOperator if it is not quantised, or per channel."""
    if tensor.scale.size != 1:
        found = "is not quantised" if tensor.scale.size == 0 else "has a scale per channel"
        raise UnsupportedOperator(f"{operator.place}: tensor {tensor.name} {found}; one scale is needed")
    return np.float32(tensor.scale[0])


def zero_point_of(tensor: Tensor) -> int:
    return int(tensor.zero_point[0]) if tensor.zero_point.size else 0


def activation_range(output: Tensor, activation: int, operator: Operator) -> tuple[int, int]:
    """(lowest, highest) quantised value of a fused activation: `CalculateActivationRangeQuantized`.

    Raises UnsupportedOperator for an activation that TFLite-Micro does not fuse (TANH, SIGN_BIT).
    """
    low, high = LIMITS[output.dtype]
    bounds = {0: (None, None), RELU: (0.0, None), RELU6: (0.0, 6.0), RELU_N1_TO_1: (-1.0, 1.0)}
    if activation not in bounds:
        raise UnsupportedOperator(f"{operator.place}: fused activation {activation} is not known; none or ReLU is")
    lowest, highest = bounds[activation]
    if lowest is not None:
        low = max(low, _quantize(lowest, output, operator))
    if highest is not None:
        high = min(high, _quantize(highest, output, operator))
    return low, high


def _quantize(value: float, output: Tensor, operator: Operator) -> int:
    ratio = np.float32(value) / scale_of(output, operator)
    return zero_point_of(output) + int(round_away(ratio))


def round_away(values: Any) -> np.ndarray:
    """`std::round` of float32 values: halves away from zero (numpy's rint goes to even)."""
    wide = np.asarray(values, np.float64)
    return np.copysign(np.floor(np.abs(wide) + 0.5), wide)


def multiply_by_quantized_multiplier(values: np.ndarray, multiplier: int, shift: int) -> np.ndarray:
    """`MultiplyByQuantizedMultiplier` on int32 values (here int64 arrays): double rounding."""
    left, right = max(shift, 0), max(-shift, 0)
    return rounding_divide_by_power(doubling_high_multiply(np.asarray(values, np.int64) << left, multiplier), right)


def doubling_high_multiply(a: np.ndarray, b: Any) -> np.ndarray:
    """gemmlowp's `SaturatingRoundingDoublingHighMul` of int32: the high half of 2ab, rounded; int64 arrays in and out.

    The division truncates towards zero after the nudge, as C's does. The one saturating case is min * min.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.int64), np.asarray(b, np.int64))
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))
    return np.where((a == -(1 << 31)) & (b == -(1 << 31)), (1 << 31) - 1, high)


def rounding_divide_by_power(values: np.ndarray, exponent: int) -> np.ndarray:
    """gemmlowp's `RoundingDivideByPOT`: division by 2^exponent, halves away from zero."""
    values = np.asarray(values, np.int64)
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (values < 0)
    return (values >> exponent) + ((values & mask) > threshold)
