"""What canvas selectors look at: numbers of the strokes, and how sure a first look at the gallery was. numpy only.

Training and device compute the same numbers from this file.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.simplify import simplify

STROKES = (
    "strokes",
    "points",
    "length",
    "ink",
    "width",
    "height",
    "turning",
    "closed",
    "filled",
    "line width",
    "segment length",
    "density",
)
NEAREST = 10  # photos of a first look that its features are made of
SURENESS = ("best", "margin", "margin to the fifth", "margin to the tenth", "entropy")
TEMPERATURE = 0.05  # of the softmax whose entropy is a feature: similarities of neighbours differ by hundredths

Combine = Literal["last", "first", "all"]


def stroke_statistics(sketch: Sketch, tolerance: float) -> np.ndarray:
    """The numbers that STROKES names, (12,) float32, counts and lengths as logarithms. An empty sketch is all 0.

    Points, turning and segment length are those after `simplify` with this tolerance; ink is the drawn area of lines
    and filled outlines as a share of the canvas, overlaps counted twice; turning is the mean of the absolute angle
    between neighbouring segments over pi; closed and filled are shares of the strokes.
    """
    if not len(sketch.points):
        return np.zeros(len(STROKES), np.float32)
    simple = simplify(sketch, tolerance)
    steps, angles, closed, area = [], [], 0, 0.0
    lengths = np.zeros(len(simple))
    for index in range(len(simple)):
        points = simple.stroke(index).astype(np.float64)
        is_filled = simple.filled[index] > 0
        if is_filled:
            points = np.concatenate([points, points[:1]])
            area += _signed_area(points)
        edges = np.diff(points, axis=0)
        sizes = np.hypot(*edges.T)
        lengths[index] = sizes.sum()
        steps.append(sizes)
        angles.append(_turns(edges[sizes > 0]))
        closed += bool(is_filled or (len(points) > 2 and np.hypot(*(points[-1] - points[0])) < 0.02))
    extent = np.ptp(simple.points, axis=0)
    filled = simple.filled > 0
    length = float(lengths.sum())
    every_step, every_angle = np.concatenate(steps), np.concatenate(angles)
    return np.array(
        [
            math.log1p(len(simple)),
            math.log1p(len(simple.points)),
            math.log1p(length),
            float((lengths * simple.widths)[~filled].sum()) + abs(area),
            extent[0],
            extent[1],
            every_angle.mean() / math.pi if len(every_angle) else 0.0,
            closed / len(simple),
            filled.mean(),
            float(simple.widths[~filled].mean()) if (~filled).any() else 0.0,
            math.log(float(every_step.mean()) + 0.01) if len(every_step) else 0.0,
            math.log1p(length / max(float(extent[0] * extent[1]), 0.01)),
        ],
        np.float32,
    )


def _signed_area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _turns(edges: np.ndarray) -> np.ndarray:
    """Absolute angles between neighbouring edges, in radians."""
    heading = np.arctan2(edges[:, 1], edges[:, 0])
    return np.abs((np.diff(heading) + math.pi) % (2 * math.pi) - math.pi)


def sureness(similarities: np.ndarray) -> np.ndarray:
    """The numbers that SURENESS names, of the largest cosines (n, NEAREST or fewer), best first: (n, 5) float32.

    The entropy is that of softmax(cosines / TEMPERATURE) over these neighbours, in nats: no feature depends on
    photos that are far away, so an index that returns only the nearest will do.
    """
    similarities = np.asarray(similarities, np.float64)
    best = similarities[:, 0]
    others = [best - similarities[:, min(rank, similarities.shape[1] - 1)] for rank in (1, 4, NEAREST - 1)]
    logits = (similarities - best[:, None]) / TEMPERATURE
    weights = np.exp(logits)
    weights /= weights.sum(1, keepdims=True)
    entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(1)
    return np.stack([best, *others, entropy], axis=1).astype(np.float32)


def combined(embeddings: np.ndarray, how: Combine) -> np.ndarray:
    """What is searched with after looking at canvas k: (..., canvases, dim) L2-normalised -> the same shape.

    "last": canvas k's embedding alone. "first": the normalised sum with that of canvas 0, the only other one that was
    looked at. "all": the normalised sum of those of canvases 0 to k. Two looks are two opinions, and their mean is
    better than the second alone.
    """
    if how == "last":
        return embeddings
    sums = embeddings + embeddings[..., :1, :] if how == "first" else np.cumsum(embeddings, axis=-2)
    return normalised(sums)


def normalised(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def sequence_steps(tuples: np.ndarray) -> np.ndarray:
    """How many rows of five-tuples (..., points, 5) a recurrent selector reads: those before the first end of drawing.

    At least one; all of them where none is the end (the third pen state).
    """
    ended = tuples[..., 4] > 0.5
    first = np.where(ended.any(-1), ended.argmax(-1), tuples.shape[-2])
    return np.maximum(first, 1)
