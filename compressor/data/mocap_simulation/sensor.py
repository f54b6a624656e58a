"""A virtual inertial sensor: what an accelerometer and a gyroscope would read on a body that moves. A simulation.

An accelerometer reads the specific force in its own frame, R^T (p'' - g): at rest, gravity upwards. A gyroscope reads
the angular velocity in its own frame, 2 q* q' for the unit quaternion q to the world. Both are derivatives of splines
through the track, so no difference quotient's step is in them.
"""

from __future__ import annotations

import numpy as np

from compressor.data.imu_windows import GRAVITY
from compressor.data.mocap_simulation.clips import conjugate, multiply, rotate

UP = np.array([0.0, 1.0, 0.0])  # of the clips' world


class Track:
    """Where a segment of the body is, at any time: its origin (t, 3) m, its rotations (t, 4) w, x, y, z to the world,
    at rate_hz."""

    def __init__(self, origin: np.ndarray, rotations: np.ndarray, rate_hz: float) -> None:
        from scipy.interpolate import make_interp_spline

        times = np.arange(len(origin)) / rate_hz
        # A point at (x, y, z) of the segment is at origin + x e_x + y e_y + z e_z, so one spline serves all points. Its
        # second derivative is smooth.
        axes = [rotate(rotations, axis) for axis in np.eye(3)]
        self._acceleration = make_interp_spline(times, np.stack([origin, *axes], axis=1), k=5).derivative(2)
        self._rotation = make_interp_spline(times, rotations, k=5)
        self._turning = self._rotation.derivative()

    def read(
        self, times: np.ndarray, place: np.ndarray, mounting: np.ndarray, speed: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """What sensors read at `times` (n, t) s of the track: (n, 6, t) in m/s2 and rad/s.

        place      (n, 3) m, in the segment's frame
        mounting   (n, 4) quaternion from the sensor's frame to the segment's
        speed      (n,): how much faster than the track time runs for the wearer
        """
        speed = np.broadcast_to(np.asarray(speed, np.float64), (len(times),))[:, None, None]
        rotation = self._rotation(times)
        length = np.linalg.norm(rotation, axis=-1, keepdims=True)
        to_sensor = conjugate(multiply(rotation / length, mounting[:, None]))
        shares = np.concatenate([np.ones((len(times), 1)), place], axis=1)
        acceleration = np.einsum("ntac,na->ntc", self._acceleration(times), shares)
        force = rotate(to_sensor, acceleration * speed**2 + GRAVITY * UP)
        # of q / |q|: what changes its length drops out of the vector part
        turning = 2 * multiply(conjugate(rotation), self._turning(times))[..., 1:] / length**2
        angular = rotate(conjugate(mounting)[:, None], turning * speed)
        return np.concatenate([force, angular], axis=-1).swapaxes(1, 2)


def about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) of turns by `angle` (...) rad about unit axes (..., 3)."""
    half = np.asarray(angle)[..., None] / 2
    return np.concatenate([np.cos(half), np.sin(half) * axis], axis=-1)


def spectrum(signals: np.ndarray) -> np.ndarray:
    """Root mean square of the spectrum of windows (n, 6, t): (6, t // 2 + 1)."""
    return np.sqrt((np.abs(np.fft.rfft(signals, axis=-1)) ** 2).mean(axis=0))


def matching_gains(simulated: np.ndarray, real: np.ndarray, limit: float = 8.0, smoothing: int = 5) -> np.ndarray:
    """Gains (6, t // 2 + 1) that give simulated windows the mean spectrum of real, unlabelled ones (n, 6, t).

    The mean (frequency 0) is left alone: it is gravity, and how the sensor hangs. x, y and z of a sensor share one
    curve (a sensor may be turned), running means over `smoothing` bins; no gain beyond `limit` or below 1 / limit.
    """
    curves = []
    for signals in (simulated, real):
        power = (spectrum(signals) ** 2).reshape(2, 3, -1).mean(axis=1)
        padded = np.pad(power, ((0, 0), (smoothing // 2, smoothing // 2)), mode="edge")
        smooth = np.lib.stride_tricks.sliding_window_view(padded, smoothing, axis=1).mean(-1)
        curves.append(np.sqrt(smooth + 1e-12))
    gains = np.clip(curves[1] / curves[0], 1 / limit, limit)
    gains[:, 0] = 1
    return np.repeat(gains, 3, axis=0)


def apply_gains(signals: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Windows (n, 6, t) through these gains, float32."""
    lines = np.fft.rfft(signals, axis=-1) * gains
    return np.fft.irfft(lines, n=signals.shape[-1], axis=-1).astype(np.float32)
