"""raster.py's drawing as a compiled kernel: the same float32 operations, segment by segment, without the GIL."""

from __future__ import annotations

import math

import numba
import numpy as np

from compressor.tasks.sketch.raster import HALF, ONE, WIDE_PX

ZERO = np.float32(0.0)
# Every number is a float32: a Python float or an integer in an expression would make it float64.
jit = numba.njit(nogil=True, cache=True, inline="never")
inlined = numba.njit(nogil=True, cache=True, inline="always")


@jit
def draw(points, offsets, widths, filled, minimum_width_px, canvas):
    """See raster.draw_reference."""
    side = np.float32(canvas.shape[0])
    minimum = np.float32(minimum_width_px)
    most = 0
    for stroke in range(len(filled)):
        most = max(most, filled[stroke])
        if filled[stroke] != 0:
            continue
        reach = max(widths[stroke] * side, minimum) * HALF + HALF
        first, last = offsets[stroke], offsets[stroke + 1]
        x0, y0 = points[first, 0] * side, points[first, 1] * side
        if last - first == 1:
            _line(x0, y0, x0, y0, reach, side, canvas)
        for index in range(first + 1, last):
            x1, y1 = points[index, 0] * side, points[index, 1] * side
            _line(x0, y0, x1, y1, reach, side, canvas)
            x0, y0 = x1, y1
    if most > 0:
        size = canvas.shape[0]
        edge = np.empty((size, size), np.float32)
        winding = np.empty((size, size + 1), np.int16)
        for shape in range(1, most + 1):
            _fill(points, offsets, filled, shape, side, edge, winding, canvas)


@inlined
def _first(value, side):
    """The smallest whole number that is at least `value`, on the canvas."""
    clipped = min(max(value, ZERO), side)
    whole = np.int32(clipped)
    return whole + np.int32(1) if np.float32(whole) < clipped else whole


@inlined
def _end(value, side):
    """The largest whole number that is at most `value`, on the canvas."""
    return np.int32(min(max(value, ZERO), side))


@jit
def _line(x0, y0, x1, y1, reach, side, canvas):
    margin = reach + HALF
    left, right = _first(min(x0, x1) - margin, side), _end(max(x0, x1) + margin, side)
    top, bottom = _first(min(y0, y1) - margin, side), _end(max(y0, y1) + margin, side)
    if left >= right:
        return
    dx, dy = x1 - x0, y1 - y0
    squared = dx * dx + dy * dy
    inverse = ONE / math.sqrt(squared) if squared > ZERO else ONE
    slanted = right - left > WIDE_PX and abs(dy) >= ONE
    slope = dx / dy if slanted else ZERO
    margin = reach * math.sqrt(slope * slope + ONE) + HALF
    first, end = left, right
    for row in range(top, bottom):
        centre = np.float32(row) + HALF
        py, qy = centre - y0, centre - y1
        if slanted:
            on_line = x0 + py * slope
            first, end = max(left, _first(on_line - margin, side)), min(right, _end(on_line + margin, side))
        along_y, across_y, py2, qy2 = py * dy, py * dx, py * py, qy * qy
        for column in range(first, end):
            centre_x = np.float32(column) + HALF
            px = centre_x - x0
            along = px * dx + along_y
            if along <= ZERO:
                distance = math.sqrt(px * px + py2)
            elif along >= squared:
                qx = centre_x - x1
                distance = math.sqrt(qx * qx + qy2)
            else:
                distance = abs(px * dy - across_y) * inverse
            coverage = min(reach - distance, ONE)
            if coverage > canvas[row, column]:
                canvas[row, column] = coverage


@jit
def _fill(points, offsets, filled, shape, side, edge, winding, canvas):
    """`edge` and `winding` are memory to work in: see raster._fill."""
    low_x, high_x, low_y, high_y = side, ZERO, side, ZERO
    for stroke in range(len(filled)):
        if filled[stroke] == shape:
            for index in range(offsets[stroke], offsets[stroke + 1]):
                x, y = points[index, 0] * side, points[index, 1] * side
                low_x, high_x = min(low_x, x), max(high_x, x)
                low_y, high_y = min(low_y, y), max(high_y, y)
    left, right = _first(low_x - ONE, side), _end(high_x + ONE, side)
    top, bottom = _first(low_y - ONE, side), _end(high_y + ONE, side)
    if left >= right or top >= bottom:
        return
    edge[top:bottom, left:right] = ZERO
    winding[top:bottom, left : right + 1] = 0
    for stroke in range(len(filled)):
        if filled[stroke] != shape:
            continue
        last = offsets[stroke + 1]
        x0, y0 = points[last - 1, 0] * side, points[last - 1, 1] * side
        for index in range(offsets[stroke], last):
            x1, y1 = points[index, 0] * side, points[index, 1] * side
            _line(x0, y0, x1, y1, HALF, side, edge)
            _wind(x0, y0, x1, y1, side, winding)
            x0, y0 = x1, y1
    for row in range(top, bottom):
        number = 0
        for column in range(left, right):
            number += winding[row, column]
            coverage = ONE - edge[row, column] if number != 0 else edge[row, column]
            if coverage > canvas[row, column]:
                canvas[row, column] = coverage


@jit
def _wind(x0, y0, x1, y1, side, winding):
    """Count an edge where it crosses the rows' centres: at the first pixel whose centre is beyond."""
    turn = 1 if y1 > y0 else -1
    top, bottom = _first(min(y0, y1) - HALF, side), _first(max(y0, y1) - HALF, side)
    if top >= bottom:
        return
    slope = (x1 - x0) / (y1 - y0)
    for row in range(top, bottom):
        crossing = x0 + ((np.float32(row) + HALF) - y0) * slope
        winding[row, _end(crossing + HALF, side)] += turn
