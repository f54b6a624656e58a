"""The affine map between real numbers and int8: real = scale * (q - zero_point). One rule for every runtime that takes
int8 inputs, so that all of them see the same bytes (Jacob et al., arXiv 1712.05877, equation 1)."""

from __future__ import annotations

import numpy as np


def quantize(values: np.ndarray, scale: float, zero_point: int, dtype: str = "int8") -> np.ndarray:
    """q = clip(rint(values / scale) + zero_point), in float32 arithmetic; ties go to the even neighbour.

    >>> quantize(np.array([-9.0, -0.25, 0.0, 0.75, 9.0]), 0.5, -3)
    array([ -21,   -3,   -3,   -1,   15], dtype=int8)
    """
    limits = np.iinfo(dtype)
    steps = np.rint(np.asarray(values, np.float32) / np.float32(scale))
    # the sum is exact in float32: beyond 2**24 both neighbours are clipped to the same end
    return np.clip(steps + np.float32(zero_point), limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """scale * (values - zero_point) as float32.

    >>> dequantize(np.array([-3, 1], np.int8), 0.5, -3)
    array([0., 2.], dtype=float32)
    """
    return (values.astype(np.int32) - np.int32(zero_point)).astype(np.float32) * np.float32(scale)


def narrowed(values: np.ndarray) -> np.ndarray:
    """64-bit values as a converted file takes them. Raises ValueError if an integer does not fit 32 bits."""
    if values.dtype == np.int64:
        limits = np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise ValueError(f"integer inputs go to TFLite as int32: {values.max()} does not fit")
        return values.astype(np.int32)
    return values.astype(np.float32) if values.dtype == np.float64 else values
