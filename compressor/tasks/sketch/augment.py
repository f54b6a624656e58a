"""Variation of sketches for training: what another hand would have drawn differently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.data.sketch import Sketch


@dataclass(frozen=True)
class Augmentation:
    """Standard deviations at strength 1, unless said otherwise. Lengths are fractions of the canvas."""

    flip: float = 0.5  # probability of a mirror image, whatever the strength
    rotation_deg: float = 9.0
    log_scale: float = 0.09
    log_aspect: float = 0.06
    shear: float = 0.09
    shift: float = 0.035
    stroke_rotation_deg: float = 2.5
    stroke_log_scale: float = 0.03
    stroke_shift: float = 0.009
    drop: float = 0.06  # probability of leaving a stroke out
    log_width: float = 0.2

    def to_json(self) -> dict[str, float]:
        return dict(vars(self))


DEFAULT = Augmentation()


def augment(
    sketch: Sketch, rng: np.random.Generator, strength: float = 1.0, settings: Augmentation = DEFAULT
) -> Sketch:
    """One variation: affine, each stroke moved a little, strokes left out, another line width, a mirror image.

    A pure function of its arguments and the generator's state. The outlines of one filled shape stay together, and at
    least one stroke remains. Strength 0 leaves only the mirror image.
    """
    units, unit = _units(sketch.filled)
    keep = rng.random(units) >= settings.drop * strength
    if len(sketch):
        keep[unit[rng.integers(len(sketch))]] = True
    matrix, shift = _affine(rng, settings, strength)
    turn = np.deg2rad(settings.stroke_rotation_deg) * strength * rng.standard_normal(units)
    grow = np.exp(settings.stroke_log_scale * strength * rng.standard_normal(units))
    move = settings.stroke_shift * strength * rng.standard_normal((units, 2))
    width = np.exp(settings.log_width * strength * rng.standard_normal())

    of_point = np.repeat(unit, np.diff(sketch.offsets))
    counts = np.maximum(np.bincount(of_point, minlength=units), 1)[:, None]
    sums = [np.bincount(of_point, weights=sketch.points[:, axis], minlength=units) for axis in (0, 1)]
    centre = (np.stack(sums, axis=1) / counts)[of_point]
    x, y = (sketch.points - centre).T
    cos, sin = (np.cos(turn) * grow)[of_point], (np.sin(turn) * grow)[of_point]
    points = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1) + centre + move[of_point]
    points = (points - 0.5) @ matrix.T + 0.5 + shift
    scale = np.sqrt(abs(np.linalg.det(matrix)))
    moved = Sketch(
        points.astype(np.float32), sketch.offsets, (sketch.widths * width * scale).astype(np.float32), sketch.filled
    )
    return moved if keep.all() else select_strokes(moved, np.flatnonzero(keep[unit]))


def select_strokes(sketch: Sketch, chosen: np.ndarray) -> Sketch:
    """The sketch with only the strokes `chosen` (ascending indices)."""
    lengths = np.diff(sketch.offsets)
    mask = np.zeros(len(sketch), bool)
    mask[chosen] = True
    return Sketch(
        points=sketch.points[np.repeat(mask, lengths)],
        offsets=np.concatenate([[0], np.cumsum(lengths[mask])]),
        widths=sketch.widths[mask],
        filled=sketch.filled[mask],
    )


def _units(filled: np.ndarray) -> tuple[int, np.ndarray]:
    """How many things move as one (a line, or a filled shape with its holes), and to which each stroke belongs."""
    shapes = int(filled.max(initial=0))
    lines = filled == 0
    unit = np.where(lines, shapes + np.cumsum(lines) - 1, filled - 1)
    return shapes + int(lines.sum()), unit.astype(np.int64)


def _affine(rng: np.random.Generator, settings: Augmentation, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (2, 2) and shift (2,) about the canvas' centre."""
    flip = -1.0 if rng.random() < settings.flip else 1.0
    angle = np.deg2rad(settings.rotation_deg) * strength * rng.standard_normal()
    scale = np.exp(settings.log_scale * strength * rng.standard_normal())
    aspect = np.exp(settings.log_aspect * strength * rng.standard_normal())
    shear = settings.shear * strength * rng.standard_normal()
    shift = settings.shift * strength * rng.standard_normal(2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    deform = np.array([[flip * aspect, shear], [0.0, 1.0 / aspect]])
    return scale * rotation @ deform, shift
