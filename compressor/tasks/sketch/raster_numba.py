"""raster.py's drawing as a compiled kernel: the same formulas, segment by segment, without the GIL."""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def draw(points, offsets, widths, filled, minimum_width_px, canvas):
    """See raster.draw_reference."""
    size = canvas.shape[0]
    most = 0
    for stroke in range(len(filled)):
        most = max(most, filled[stroke])
        if filled[stroke] != 0:
            continue
        half = max(float(widths[stroke]) * size, minimum_width_px) / 2
        first, last = offsets[stroke], offsets[stroke + 1]
        if last - first == 1:
            _line(points, first, first, half, size, canvas)
        for index in range(first, last - 1):
            _line(points, index, index + 1, half, size, canvas)
    if most > 0:
        to_edge = np.empty((size, size))
        winding = np.empty((size, size + 1), np.int64)
        for shape in range(1, most + 1):
            _fill(points, offsets, filled, shape, size, to_edge, winding, canvas)


@numba.njit(nogil=True, cache=True)
def _bounds(a, b, reach, size):
    low = min(max(math.floor(min(a, b) - reach), 0), size)
    high = min(max(math.ceil(max(a, b) + reach), 0), size)
    return int(low), int(high)


@numba.njit(nogil=True, cache=True)
def _distance(px, py, dx, dy, squared):
    along = 0.0
    if squared > 0:
        along = min(max((px * dx + py * dy) / squared, 0.0), 1.0)
    return math.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2)


@numba.njit(nogil=True, cache=True)
def _line(points, i, j, half, size, canvas):
    x0, y0 = float(points[i, 0]) * size, float(points[i, 1]) * size
    x1, y1 = float(points[j, 0]) * size, float(points[j, 1]) * size
    left, right = _bounds(x0, x1, half + 0.5, size)
    top, bottom = _bounds(y0, y1, half + 0.5, size)
    dx, dy = x1 - x0, y1 - y0
    squared = dx * dx + dy * dy
    for row in range(top, bottom):
        for column in range(left, right):
            coverage = half + 0.5 - _distance(column + 0.5 - x0, row + 0.5 - y0, dx, dy, squared)
            if coverage > canvas[row, column]:
                canvas[row, column] = min(coverage, 1.0)


@numba.njit(nogil=True, cache=True)
def _fill(points, offsets, filled, shape, size, to_edge, winding, canvas):
    low_x, high_x, low_y, high_y = np.inf, -np.inf, np.inf, -np.inf
    for stroke in range(len(filled)):
        if filled[stroke] == shape:
            for index in range(offsets[stroke], offsets[stroke + 1]):
                x, y = float(points[index, 0]) * size, float(points[index, 1]) * size
                low_x, high_x = min(low_x, x), max(high_x, x)
                low_y, high_y = min(low_y, y), max(high_y, y)
    if low_x == np.inf:
        return
    left, right = _bounds(low_x, high_x, 0.5, size)
    top, bottom = _bounds(low_y, high_y, 0.5, size)
    to_edge[top:bottom, left:right] = 0.5
    winding[top:bottom, left : right + 1] = 0
    for stroke in range(len(filled)):
        if filled[stroke] != shape:
            continue
        first, last = offsets[stroke], offsets[stroke + 1]
        for index in range(first, last):
            after = index + 1 if index + 1 < last else first
            _edge(points, index, after, size, to_edge, winding)
    for row in range(top, bottom):
        number = 0
        for column in range(left, right):
            number += winding[row, column]
            distance = to_edge[row, column]
            coverage = 0.5 + distance if number != 0 else 0.5 - distance
            if coverage > canvas[row, column]:
                canvas[row, column] = coverage


@numba.njit(nogil=True, cache=True)
def _edge(points, i, j, size, to_edge, winding):
    x0, y0 = float(points[i, 0]) * size, float(points[i, 1]) * size
    x1, y1 = float(points[j, 0]) * size, float(points[j, 1]) * size
    left, right = _bounds(x0, x1, 0.5, size)
    top, bottom = _bounds(y0, y1, 0.5, size)
    dx, dy = x1 - x0, y1 - y0
    squared = dx * dx + dy * dy
    for row in range(top, bottom):
        centre = row + 0.5
        for column in range(left, right):
            distance = _distance(column + 0.5 - x0, centre - y0, dx, dy, squared)
            if distance < to_edge[row, column]:
                to_edge[row, column] = distance
        down, up = y0 <= centre < y1, y1 <= centre < y0
        if down or up:
            crossing = x0 + (centre - y0) * dx / dy
            column = int(min(max(math.floor(crossing + 0.5), 0), size))
            winding[row, column] += 1 if down else -1
