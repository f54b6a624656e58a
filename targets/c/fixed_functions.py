"""Functions in 32-bit fixed point at generation time, bit by bit as gemmlowp and TFLite-Micro compute them.

A value with k integer bits is an integer in units of 2^(k - 31). Arrays are int64 and hold int32 values. Sources:
gemmlowp's fixedpoint.h; GetInvSqrtQuantizedMultiplierExp of tensorflow/lite/kernels/internal/common.h.
"""

from __future__ import annotations

import functools

import numpy as np

from targets.c.fixed_point import doubling_high_multiply as multiply
from targets.c.fixed_point import rounding_divide_by_power

MAX, MIN = (1 << 31) - 1, -(1 << 31)
# Exponent of two -> exp(-2^exponent) with 0 integer bits.
EXPONENTIALS = {-2: 1672461947, -1: 1302514674, 0: 790015084, 1: 290630308, 2: 39332535, 3: 720401, 4: 242}
EXP_MINUS_EIGHTH, ONE_THIRD, HALF_SQRT_2 = 1895147668, 715827883, 1518500250  # 0 integer bits
FORTYEIGHT_17THS, MINUS_THIRTYTWO_17THS, ONE_WITH_2_BITS = 1515870810, -1010580540, 1 << 29  # 2 integer bits


def exp_on_negative_values(values: np.ndarray, integer_bits: int) -> np.ndarray:
    """exp(x) for x <= 0 with up to 5 integer bits; the result has none (1.0 is 2^31 - 1)."""
    values = np.asarray(values, np.int64)
    fraction = 31 - integer_bits
    quarter = 1 << (fraction - 2)
    modulo = (values & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_zero(_shift_left(modulo, integer_bits))
    remainder = modulo - values
    for exponent, constant in EXPONENTIALS.items():
        if integer_bits > exponent:
            result = np.where(remainder >> (fraction + exponent) & 1, multiply(result, constant), result)
    return np.where(values == 0, MAX, result)


def logistic(values: np.ndarray, integer_bits: int) -> np.ndarray:
    """1 / (1 + exp(-x)); the result has no integer bits."""
    values = np.asarray(values, np.int64)
    positive = _shift_left(_newton(exp_on_negative_values(-np.abs(values), integer_bits)), 1)
    return np.where(values == 0, 1 << 30, np.where(values > 0, positive, MAX - positive))


def tanh(values: np.ndarray, integer_bits: int) -> np.ndarray:
    """(1 - exp(-2x)) / (1 + exp(-2x)); the result has no integer bits."""
    values = np.asarray(values, np.int64)
    exponential = exp_on_negative_values(-np.abs(values), integer_bits + 1)  # the same bits are twice the value
    positive = _shift_left(_newton(exponential) - ONE_WITH_2_BITS, 2)
    return np.where(values == 0, 0, np.where(values < 0, -positive, positive))


@functools.cache
def inverse_square_root(value: int) -> tuple[int, int]:
    """1 / sqrt(value) of an integer >= 1 as (multiplier, shift) of `multiply_by_quantized_multiplier`."""
    if value <= 1:
        return MAX, 0
    shift = 11
    while value >= 1 << 29:
        value //= 4
        shift += 1
    pairs = (32 - value.bit_length() - 1) // 2 - 1
    shift -= pairs
    number = np.array(value << 2 * pairs >> 1, np.int64)  # 3 integer bits from here on
    half, x = rounding_divide_by_power(number, 1), np.array(1 << 28, np.int64)
    for _ in range(5):
        cube = _shift_left(multiply(multiply(x, x), x), 6)
        x = _shift_left(multiply(np.array((1 << 28) + (1 << 27)), x) - multiply(half, cube), 3)
    root = int(multiply(x, HALF_SQRT_2))
    return (root << -shift, 0) if shift < 0 else (root, -shift)


def _exp_between_minus_quarter_and_zero(values: np.ndarray) -> np.ndarray:
    """Taylor expansion around -1/8, no integer bits."""
    x = values + (1 << 28)
    x2 = multiply(x, x)
    x3, x4 = multiply(x2, x), multiply(x2, x2)
    quartic = rounding_divide_by_power(x4, 2)
    tail = rounding_divide_by_power(multiply(quartic + x3, ONE_THIRD) + x2, 1)
    return EXP_MINUS_EIGHTH + multiply(np.array(EXP_MINUS_EIGHTH), x + tail)


def _newton(values: np.ndarray) -> np.ndarray:
    """2 / (1 + a) with 2 integer bits, for a in (0, 1) with none: three steps of Newton-Raphson division."""
    total = values + MAX
    half_denominator = np.where(total >= 0, (total + 1) // 2, -((1 - total) // 2))
    x = FORTYEIGHT_17THS + multiply(half_denominator, MINUS_THIRTYTWO_17THS)
    for _ in range(3):
        x = x + _shift_left(multiply(x, ONE_WITH_2_BITS - multiply(half_denominator, x)), 2)
    return x


def _shift_left(values: np.ndarray, bits: int) -> np.ndarray:
    """Saturating."""
    return np.clip(np.asarray(values, np.int64) << bits, MIN, MAX)
