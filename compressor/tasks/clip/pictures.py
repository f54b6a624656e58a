"""Pictures at the size that a tower takes: one way of resizing for training, evaluation and device. numpy only."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=32)
def _weights(before: int, after: int) -> np.ndarray:
    """(after, before) float32: a triangle filter as wide as a new pixel, or as an old one where pictures grow."""
    scale = before / after
    width = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before)[None] + 0.5 - centres[:, None]) / width
    weights = np.maximum(0.0, 1.0 - distance)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize(pictures: np.ndarray, px: int) -> np.ndarray:
    """(..., H, W, 3) uint8 -> (..., px, px, 3) uint8."""
    height, width = pictures.shape[-3:-1]
    if (height, width) == (px, px):
        return pictures
    tall = np.tensordot(pictures.astype(np.float32), _weights(height, px), axes=(-3, 1))  # (..., W, 3, px)
    both = np.tensordot(tall, _weights(width, px), axes=(-3, 1))  # (..., 3, px, px): rows, then columns
    return np.clip(np.rint(np.moveaxis(both, -3, -1)), 0, 255).astype(np.uint8)


def to_input(pictures: np.ndarray, px: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, 3, px, px) float32 in [0, 1]: what the image tower takes."""
    small = resize(pictures, px)
    return np.ascontiguousarray(small.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
