"""Stick figures as small pictures: the video of a simulated recording."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def draw_figures(points: np.ndarray, bones: np.ndarray, radii: np.ndarray, frames: np.ndarray) -> None:
    """Draw every figure into its frame: a pixel is the brightest of the bones that cover it.

    points   (n, points, 3) float64: column and row in pixels, and brightness, 0 to 1 (nearer points are brighter)
    bones    (bones, 2) indices of points: lines with round ends, and edges one pixel soft
    radii    (n, bones) half the width of each in pixels
    frames   (n, height, width) uint8, added to
    """
    height, width = frames.shape[1], frames.shape[2]
    for n in range(len(points)):
        for bone in range(len(bones)):
            a, b, radius = points[n, bones[bone, 0]], points[n, bones[bone, 1]], radii[n, bone]
            reach = radius + 0.5
            left, right = max(int(min(a[0], b[0]) - reach), 0), min(int(max(a[0], b[0]) + reach) + 2, width)
            top, bottom = max(int(min(a[1], b[1]) - reach), 0), min(int(max(a[1], b[1]) + reach) + 2, height)
            dx, dy = b[0] - a[0], b[1] - a[1]
            squared = max(dx * dx + dy * dy, 1e-9)
            for row in range(top, bottom):
                for column in range(left, right):
                    x, y = column - a[0], row - a[1]
                    along = min(max((x * dx + y * dy) / squared, 0.0), 1.0)
                    distance = np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)
                    cover = min(max(reach - distance, 0.0), 1.0)
                    value = np.uint8(255 * cover * (a[2] + along * (b[2] - a[2])))
                    if value > frames[n, row, column]:
                        frames[n, row, column] = value


def project(positions: np.ndarray, camera: Camera) -> np.ndarray:
    """Points (n, frames, points, 3) m, y up -> (n, frames, points, 3): column, row, brightness; parallel projection.

    The camera looks at the root's mean place; it follows the root's way over the ground by the share `follow`.
    """
    root = positions[:, :, :1].copy()
    middle = root.mean(axis=1, keepdims=True)
    middle = middle + camera.follow[:, None, None, None] * (root - middle) * np.array([1, 0, 1])
    middle[..., 1] = camera.height[:, None, None]
    seen = positions - middle
    cos, sin = np.cos(camera.yaw)[:, None, None], np.sin(camera.yaw)[:, None, None]
    across = seen[..., 0] * cos + seen[..., 2] * sin
    depth = seen[..., 2] * cos - seen[..., 0] * sin
    tilt_cos, tilt_sin = np.cos(camera.pitch)[:, None, None], np.sin(camera.pitch)[:, None, None]
    up, depth = seen[..., 1] * tilt_cos - depth * tilt_sin, depth * tilt_cos + seen[..., 1] * tilt_sin
    scale = camera.pixels_per_m[:, None, None]
    centre = (camera.side_px - 1) / 2
    brightness = np.clip(0.75 + 0.4 * depth, 0.4, 1.0)
    return np.stack([centre + across * scale, centre - up * scale, brightness], axis=-1)


class Camera:
    """Of n recordings, drawn at random: from all sides, a little from above or below, nearer or farther."""

    def __init__(self, rng: np.random.Generator, count: int, side_px: int, tall_m: float) -> None:
        self.side_px = side_px
        self.yaw = rng.uniform(0, 2 * np.pi, count)
        self.pitch = rng.normal(0.1, 0.12, count)
        self.follow = rng.uniform(0.6, 1.0, count)
        self.height = tall_m * rng.normal(0.5, 0.03, count)
        self.pixels_per_m = side_px / tall_m * rng.uniform(0.7, 0.9, count)
