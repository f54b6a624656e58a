"""Variation of pictures for training: the same views for the teacher, whose outputs are cached, and for the student."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressor.context import entropy

SEED = 0  # of the views: one for all recipes, so that all share what the teacher says about them
REVISION = 1  # part of the cache's key


def vary(pictures: np.ndarray, numbers: np.ndarray, view: int, strength: float) -> np.ndarray:
    """View `view` of pictures (n, px, px, 3) uint8; view 0 is the picture itself.

    `numbers` (n,) name the pictures: a picture's view depends on nothing else, so it is the same in every run. Turned
    by 10 degrees, scaled by 12 %, moved by 5 % of the side (deviations at strength 1), mirrored half of the time;
    contrast, brightness and saturation vary by 15 %. Outside it is white.
    """
    if view == 0 or strength == 0:
        return pictures
    draws = np.stack(
        [np.random.default_rng(entropy(SEED, "clip-view", int(n), view)).standard_normal(9) for n in numbers]
    )
    draw = torch.from_numpy(draws.astype(np.float32)) * strength
    angle, scale, aspect = draw[:, 0] * 0.17, torch.exp(0.12 * draw[:, 1]), torch.exp(0.05 * draw[:, 2])
    mirror = torch.where(draw[:, 3] > 0, 1.0, -1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack(
        [
            torch.stack([cos * aspect * mirror, -sin * aspect, 0.1 * draw[:, 4]], 1),
            torch.stack([sin * mirror, cos, 0.1 * draw[:, 5]], 1),
        ],
        1,
    )
    ink = 1 - torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    grid = functional.affine_grid(matrix, list(ink.shape), align_corners=False)
    colors = _colors(1 - functional.grid_sample(ink, grid, align_corners=False), draw[:, 6:9] * 0.15)
    return (colors.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()


def _colors(rgb: Tensor, draw: Tensor) -> Tensor:
    """Contrast, brightness and saturation (n, 3) as relative changes; rgb (n, 3, px, px) in [0, 1]."""
    contrast, brightness, saturation = (draw[:, number].reshape(-1, 1, 1, 1) for number in range(3))
    mean = rgb.mean((1, 2, 3), keepdim=True)
    rgb = (rgb - mean) * (1 + contrast) + mean
    grey = rgb.mean(1, keepdim=True)
    return ((rgb - grey) * (1 + 2 * saturation) + grey + 0.5 * brightness).clamp(0, 1)


def jitter(images: Tensor, rng: np.random.Generator, pixels: int) -> Tensor:
    """Each of (n, 3, px, px) moved by up to `pixels`, white coming in: a variation that the teacher has not seen."""
    if pixels == 0:
        return images
    px = images.shape[-1]
    padded = functional.pad(images, (pixels,) * 4, value=1.0)
    moves = rng.integers(0, 2 * pixels + 1, (len(images), 2))
    return torch.stack([own[:, y : y + px, x : x + px] for own, (y, x) in zip(padded, moves, strict=True)])
