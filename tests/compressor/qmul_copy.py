"""A small copy in QMUL's layout, drawn here: polygons for photos, the same polygons with shaky corners for sketches."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 256


def corners(number: int) -> np.ndarray:
    """(n, 2) of the polygon of that number, in a canvas of 256 px."""
    count, turn, radius = 3 + number % 5, number / 6, 50 + 10 * (number % 6)
    angles = turn + 2 * math.pi * np.arange(count) / count
    return np.stack([128 + radius * np.cos(angles), 128 + radius * np.sin(angles)], axis=1)


def strokes(number: int, hand: int) -> np.ndarray:
    """(n, 3) x, y, pen of one drawing: half of the outline, the pen lifted, the other half."""
    rng = np.random.default_rng([number, hand])
    outline = np.concatenate([corners(number), corners(number)[:1]])
    shaken = outline + rng.uniform(-4, 4, outline.shape)
    pen = np.zeros(len(shaken))
    pen[[len(shaken) // 2, -1]] = 1
    return np.column_stack([shaken, pen])


def draw_copy(root: Path, train: int = 12, test: int = 5, most: int = 3, photo_px: int = SIDE) -> Path:
    """`train` and `test` photos with 1, 2, ... `most` drawings each, in turn. Returns the root."""
    (root / "photo").mkdir(parents=True)
    coordinates = {}
    for number in range(train + test):
        part, name = ("train", "test")[number >= train], f"shoe_{number:02}_Red"
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        color = (9 * number, 200 - 8 * number, 60)
        ImageDraw.Draw(picture).polygon([tuple(point) for point in corners(number)], fill=color)
        picture.resize((photo_px, photo_px)).save(root / "photo" / f"{name}.png")
        for hand in range(1 + number % most):
            coordinates[f"/{part}/{name}_{hand + 1}"] = strokes(number, hand)
    (root / f"{root.name}_Coordinate").write_bytes(pickle.dumps(coordinates, protocol=3))
    return root
