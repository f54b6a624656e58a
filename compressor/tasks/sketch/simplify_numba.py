"""simplify.py's descent as a compiled kernel: the same float32 operations, without the GIL."""

from __future__ import annotations

import numba
import numpy as np

from compressor.tasks.sketch.simplify import LESS

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@numba.njit(nogil=True, cache=True)
def descend(points, stop):
    """See simplify.significance_reference."""
    count = len(points)
    squared = np.zeros(count, np.float32)
    squared[0] = squared[count - 1] = np.inf
    parts = np.empty((count + 1, 2), np.int64)  # a part that waits has points of its own, so there are fewer
    parts[0, 0], parts[0, 1], waiting = 0, count - 1, 1
    while waiting > 0:
        waiting -= 1
        first, last = parts[waiting, 0], parts[waiting, 1]
        if last - first < 2:
            continue
        middle, farthest = _farthest(points, first, last)
        if not farthest > stop:
            continue
        squared[middle] = min(farthest, min(squared[first], squared[last]) * LESS)
        parts[waiting, 0], parts[waiting, 1] = first, middle
        parts[waiting + 1, 0], parts[waiting + 1, 1] = middle, last
        waiting += 2
    return squared


@numba.njit(nogil=True, cache=True)
def _farthest(points, first, last):
    """The first of the points between `first` and `last` that are farthest from their segment; its squared distance."""
    x0, y0, x1, y1 = points[first, 0], points[first, 1], points[last, 0], points[last, 1]
    dx, dy = x1 - x0, y1 - y0
    length = dx * dx + dy * dy
    middle, farthest = first, -ONE
    for index in range(first + 1, last):
        px, py = points[index, 0] - x0, points[index, 1] - y0
        dot = px * dx + py * dy
        if dot <= ZERO:
            distance = px * px + py * py
        elif dot >= length:
            qx, qy = points[index, 0] - x1, points[index, 1] - y1
            distance = qx * qx + qy * qy
        else:
            cross = px * dy - py * dx
            distance = cross * cross / length
        if distance > farthest:
            middle, farthest = index, distance
    return middle, farthest
