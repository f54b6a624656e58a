"""Signals varied as wearing, mounting and parts vary them: whole batches at once, functions of a generator.

Signals are (n, 6, length) float32, already scaled; x is the vertical axis when the sensor is worn upright.
"""

from __future__ import annotations

import numpy as np

from compressor.tasks.imu.config import AugmentConfig


def vary(signals: np.ndarray, rng: np.random.Generator, settings: AugmentConfig) -> np.ndarray:
    """Turn (accelerometer and gyroscope alike), scale, roll in time, and add bias and noise."""
    count, channels, length = signals.shape
    varied = signals
    if settings.tilt or settings.yaw:
        turn = rotations(rng, count, settings.yaw, settings.tilt)
        both = signals.reshape(count, channels // 3, 3, length)
        varied = np.einsum("nij,nsjt->nsit", turn, both, optimize=True).reshape(signals.shape)
    gain = np.exp(settings.amplitude * rng.standard_normal((count, 1, 1)))
    gain = gain * np.exp(settings.channel_gain * rng.standard_normal((count, channels, 1)))
    # Gravity does not change with the strength of a movement: only what moves is scaled.
    mean = varied.mean(-1, keepdims=True)
    varied = mean + (varied - mean) * gain
    if settings.shift:
        offset = rng.integers(-settings.shift, settings.shift + 1, (count, 1))
        places = (np.arange(length) + offset) % length
        varied = np.take_along_axis(varied, places[:, None], -1)
    varied = varied + settings.bias * rng.standard_normal((count, channels, 1))
    noise = rng.standard_normal(varied.shape, dtype=np.float32)
    return (varied + np.float32(settings.noise) * noise).astype(np.float32)


def rotations(rng: np.random.Generator, count: int, yaw: float, tilt: float) -> np.ndarray:
    """(n, 3, 3): about x by up to `yaw`, then about a random axis by an angle of that spread (Rodrigues)."""
    angle = rng.uniform(-yaw, yaw, count)
    about_x = np.zeros((count, 3, 3))
    about_x[:, 0, 0] = 1
    about_x[:, 1, 1] = about_x[:, 2, 2] = np.cos(angle)
    about_x[:, 1, 2], about_x[:, 2, 1] = -np.sin(angle), np.sin(angle)
    axis = rng.standard_normal((count, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = tilt * rng.standard_normal(count)
    cross = np.zeros((count, 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return (np.eye(3) + sin * cross + (1 - cos) * cross @ cross) @ about_x
