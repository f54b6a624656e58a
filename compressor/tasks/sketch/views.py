"""Pictures that networks see: sketches drawn on a canvas, photos resized and varied. Pure functions of a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.augment import DEFAULT, augment
from compressor.tasks.sketch.raster import rasterise_batch

UPRIGHT, MIRRORED = replace(DEFAULT, flip=0.0), replace(DEFAULT, flip=1.0)


def vary(sketch: Sketch, rng: np.random.Generator, strength: float, mirrored: bool) -> Sketch:
    """A variation whose mirroring the caller decides: a photo of the pair must be mirrored with it."""
    return augment(sketch, rng, strength, MIRRORED if mirrored else UPRIGHT)


def draw(sketches: Sequence[Sketch], canvas_px: int) -> Tensor:
    """(n, 1, canvas_px, canvas_px) float32, ink 1 on 0."""
    return torch.from_numpy(rasterise_batch(sketches, canvas_px))[:, None]


def resize_photos(photos: np.ndarray, px: int) -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, px, px) float32 in [0, 1], averaged over the pixels that fall together."""
    pictures = torch.from_numpy(np.ascontiguousarray(photos)).permute(0, 3, 1, 2).float() / 255
    return functional.interpolate(pictures, (px, px), mode="bilinear", antialias=True).clamp(0, 1)


def resize_pixels(photos: np.ndarray, px: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, px, px, 3) uint8: photos as a device stores them."""
    return (resize_photos(photos, px) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def vary_photos(photos: np.ndarray, px: int, rng: np.random.Generator, strength: float, mirrored: np.ndarray) -> Tensor:
    """Photos (n, H, W, 3) uint8 on white, moved, tinted and mirrored where (n,) says so: (n, 3, px, px) in [0, 1]."""
    count = len(photos)
    # Halving before the affine map keeps thin lines: grid_sample reads 4 pixels, whatever the scale.
    pictures = resize_photos(photos, px)
    grid = functional.affine_grid(_affine(rng, count, strength, mirrored), [count, 3, px, px], align_corners=False)
    moved = 1 - functional.grid_sample(1 - pictures, grid, align_corners=False)
    grey = np.maximum(rng.uniform(0, 0.5, count), rng.random(count) < 0.2) * min(strength, 1)
    weight = torch.from_numpy(grey.astype(np.float32)).reshape(-1, 1, 1, 1)
    moved = moved * (1 - weight) + moved.mean(1, keepdim=True) * weight
    gamma = np.exp(rng.uniform(-0.35, 0.35, (count, 3)) * strength).astype(np.float32)
    return moved.clamp(0, 1) ** torch.from_numpy(gamma)[..., None, None]


def _affine(rng: np.random.Generator, count: int, strength: float, mirrored: np.ndarray) -> Tensor:
    """(n, 2, 3): from output to input coordinates, as `affine_grid` takes them."""
    angle = np.deg2rad(rng.uniform(-15, 15, count)) * strength
    scale = np.exp(rng.uniform(-0.25, 0.15, count) * strength)
    aspect = np.exp(rng.uniform(-0.12, 0.12, count) * strength)
    shear = rng.uniform(-0.15, 0.15, count) * strength
    mirror = np.where(mirrored, -1.0, 1.0)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.empty((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = mirror * cos * aspect / scale, mirror * (shear - sin) / scale
    matrix[:, 1, 0], matrix[:, 1, 1] = sin / scale, cos / (scale * aspect)
    matrix[:, :, 2] = rng.uniform(-0.12, 0.12, (count, 2)) * strength
    return torch.from_numpy(matrix.astype(np.float32))
