"""Fewer points for the same drawing: Ramer-Douglas-Peucker, and a sketch as the sequence that a selector reads.

Ramer (1972), Douglas and Peucker (1973): keep both ends of a polyline, and the point farthest from the segment between
them if that is farther than the tolerance; then the same for both halves. Distances are to the segment, not to the
line through it, so closed curves need no rule of their own. numpy only; where numba is installed, simplify_numba.py
descends, with the same float32 operations in the same order, so the same points remain.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import numpy as np

from compressor.data.sketch import Sketch

OUTLINE_POINTS = 3  # an outline of fewer encloses nothing
LESS = np.float32(1 - 2**-22)
DELTA, DRAW, LIFT, END = slice(0, 2), 2, 3, 4  # columns of five-tuples


def simplify(sketch: Sketch, tolerance: float) -> Sketch:
    """Leave out points that are at most `tolerance` (a fraction of the canvas) from what remains.

    Every stroke remains, with its first and last point; the outline of a filled shape, which is closed, with its first
    point and at least three in all. Tolerance 0 leaves out only points on the segment between their neighbours.
    """
    limit = np.float32(tolerance) * np.float32(tolerance)
    keep = np.zeros(len(sketch.points), bool)
    for stroke in range(len(sketch)):
        own = _significance(sketch, stroke, limit) > 0
        if sketch.filled[stroke] and own.sum() < OUTLINE_POINTS:
            squared = _significance(sketch, stroke, np.float32(0))
            own[np.argsort(-squared, kind="stable")[:OUTLINE_POINTS]] = True
        keep[sketch.offsets[stroke] : sketch.offsets[stroke + 1]] = own
    return _select(sketch, keep)


def simplification_work(sketch: Sketch, tolerance: float) -> tuple[int, int]:
    """What `simplify` compares: points with segments, and how many segments."""
    limit = np.float32(tolerance) * np.float32(tolerance)
    comparisons = segments = 0
    for stroke in range(len(sketch)):
        kept = _significance(sketch, stroke, limit)
        if sketch.filled[stroke]:
            kept = np.append(kept, np.inf)
        # A part is split where it keeps a point: the work is that of the descent's tree, whose leaves are compared too.
        parts = [(0, len(kept) - 1)]
        while parts:
            first, last = parts.pop()
            if last - first < 2:
                continue
            comparisons, segments = comparisons + last - first - 1, segments + 1
            middle = first + 1 + int(np.argmax(kept[first + 1 : last]))
            if kept[middle] > 0:
                parts += [(first, middle), (middle, last)]
    return comparisons, segments


def simplify_to(sketch: Sketch, points: int) -> Sketch:
    """At most `points` points: those that Ramer-Douglas-Peucker would leave out last, over all strokes together.

    Every stroke keeps its first point; of a sketch with more strokes than `points`, only the longest remain.
    """
    if len(sketch.points) <= points:
        return sketch
    significance = [_significance(sketch, stroke, np.float32(0)) for stroke in range(len(sketch))]
    lengths = [_length(sketch.stroke(stroke)) for stroke in range(len(sketch))]
    left_out = np.argsort(-np.array(lengths), kind="stable")[points:]
    for stroke, own in enumerate(significance):
        if stroke in left_out:
            own[:] = -1.0
        elif len(own) > 1 and not sketch.filled[stroke]:
            # the last point matters as much as the stroke is wide
            own[-1] = np.max(np.sum((sketch.stroke(stroke) - sketch.stroke(stroke)[0]) ** 2, axis=1))
    squared = np.concatenate(significance)
    keep = np.zeros(len(squared), bool)
    keep[np.argsort(-squared, kind="stable")[:points]] = True
    return _select(sketch, keep & (squared >= 0))


def five_tuples(sketch: Sketch, points: int) -> np.ndarray:
    """A sketch as sketch-RNN reads it (Ha and Eck, arXiv 1704.03477, section 3.1): (points, 5) float32.

    Each row is a point: dx, dy from the point before (the first: from the canvas's upper left corner), and three pen
    states of which one is 1: the pen draws from here to the next point; it is lifted after this point; the drawing has
    ended. Rows after the last point are (0, 0, 0, 0, 1). A sketch of more points is brought to `points` first.
    """
    sketch = simplify_to(sketch, points)
    count = len(sketch.points)
    rows = np.zeros((points, 5), np.float32)
    rows[:count, DELTA] = np.diff(sketch.points, axis=0, prepend=np.zeros((1, 2), np.float32))
    rows[:count, DRAW] = 1
    last = sketch.offsets[1:] - 1
    rows[last, DRAW], rows[last, LIFT] = 0, 1
    rows[count:, END] = 1
    return rows


def _significance(sketch: Sketch, stroke: int, stop: np.float32) -> np.ndarray:
    """Per point of a stroke, the largest squared tolerance at which Ramer-Douglas-Peucker keeps it; ends: infinite.

    Parts that are not split at the squared tolerance `stop` are left at 0. A point is always less significant, by a
    rounding at least, than the one whose choice led to it: that is what descending from the ends means.
    """
    points = sketch.stroke(stroke)
    if closed := bool(sketch.filled[stroke]):
        points = np.concatenate([points, points[:1]])
    squared = fastest()(points, stop)
    return squared[:-1] if closed else squared


@functools.cache
def fastest() -> Callable[[np.ndarray, np.float32], np.ndarray]:
    """The numba kernel where numba is installed, else the reference."""
    if importlib.util.find_spec("numba") is None:
        return significance_reference
    from compressor.tasks.sketch.simplify_numba import descend

    return descend


def significance_reference(points: np.ndarray, stop: np.float32) -> np.ndarray:
    """`_significance` of a polyline (n, 2) float32, at least one point: (n,) float32."""
    squared = np.zeros(len(points), np.float32)
    squared[[0, -1]] = np.inf
    parts = [(0, len(points) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        distances = _squared_distances(points[first + 1 : last], points[first], points[last])
        farthest = int(np.argmax(distances))
        if not distances[farthest] > stop:
            continue
        middle = first + 1 + farthest
        squared[middle] = min(distances[farthest], min(squared[first], squared[last]) * LESS)
        parts += [(first, middle), (middle, last)]
    return squared


def _squared_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of points (n, 2) to the segment from `start` to `end`, (n,) float32."""
    from_start, from_end, along = points - start, points - end, end - start
    length = along[0] * along[0] + along[1] * along[1]
    dot = from_start[:, 0] * along[0] + from_start[:, 1] * along[1]
    cross = from_start[:, 0] * along[1] - from_start[:, 1] * along[0]
    near_start = from_start[:, 0] * from_start[:, 0] + from_start[:, 1] * from_start[:, 1]
    near_end = from_end[:, 0] * from_end[:, 0] + from_end[:, 1] * from_end[:, 1]
    beside = cross * cross / (length if length > 0 else np.float32(1))
    return np.where(dot <= 0, near_start, np.where(dot >= length, near_end, beside))


def _length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _select(sketch: Sketch, keep: np.ndarray) -> Sketch:
    """The sketch of the points where `keep` (P,) says so; strokes without points are gone."""
    counts = np.add.reduceat(keep, sketch.offsets[:-1], dtype=np.int64) if len(sketch) else np.zeros(0, np.int64)
    strokes = np.flatnonzero(counts)
    return Sketch(
        points=sketch.points[keep],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[strokes])]),
        widths=sketch.widths[strokes],
        filled=sketch.filled[strokes],
    )
