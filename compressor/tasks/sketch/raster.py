"""The one rasteriser of the sketch task: training, evaluation and device draw the same pixels.

A line's coverage at a pixel is `clip(half_width + 1/2 - distance, 0, 1)`, with the distance from the pixel's centre to
the nearest segment, all in pixels; a filled outline's is `clip(1/2 - signed distance, 0, 1)`; overlapping ink takes the
largest.

The numpy code below is the reference. Where numba is installed, raster_numba.py draws; on a device without Python,
firmware/raster.h does. All three compute in float32 with the operations in the order that stands here, none fused, so
their pixels are the same bits. Coverage only ever takes a maximum, a distance a minimum, so the order of segments
cannot matter.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from compressor.data.sketch import Sketch

# Below one pixel a line fades instead of getting thinner, and a small canvas loses its ink.
MINIMUM_WIDTH_PX = 1.0
# A segment whose box is wider than this, and that climbs at least one pixel, is drawn row by row: only the pixels near
# it. Shorter ones fill most of their box.
WIDE_PX = 4
HALF, ONE = np.float32(0.5), np.float32(1.0)
Draw = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, np.ndarray], None]


def rasterise(sketch: Sketch, canvas_px: int, minimum_width_px: float = MINIMUM_WIDTH_PX) -> np.ndarray:
    """Draw on a square canvas. Returns (canvas_px, canvas_px) float32, ink 1 on 0, row 0 at the top."""
    return rasterise_batch([sketch], canvas_px, minimum_width_px)[0]


def rasterise_batch(
    sketches: Sequence[Sketch], canvas_px: int, minimum_width_px: float = MINIMUM_WIDTH_PX
) -> np.ndarray:
    """Draw each on a canvas of its own: (n, canvas_px, canvas_px) float32. With numba the GIL is released meanwhile."""
    canvases = np.zeros((len(sketches), canvas_px, canvas_px), np.float32)
    draw = fastest()
    for sketch, canvas in zip(sketches, canvases, strict=True):
        draw(sketch.points, sketch.offsets, sketch.widths, sketch.filled, minimum_width_px, canvas)
    return canvases


@functools.cache
def fastest() -> Draw:
    """The numba kernel where numba is installed, else the reference."""
    if importlib.util.find_spec("numba") is None:
        return draw_reference
    from compressor.tasks.sketch.raster_numba import draw

    return draw


def draw_reference(
    points: np.ndarray,
    offsets: np.ndarray,
    widths: np.ndarray,
    filled: np.ndarray,
    minimum_width_px: float,
    canvas: np.ndarray,
) -> None:
    """Draw a Sketch's arrays into `canvas` (H, H) float32, which holds zeros or ink to keep."""
    size = canvas.shape[0]
    segments, half_width = line_segments(points, offsets, widths, filled, size, minimum_width_px)
    _draw(segments, half_width + HALF, canvas)
    for strokes in filled_shapes(filled):
        _fill(outline_edges(points, offsets, strokes, size), canvas)


def filled_shapes(filled: np.ndarray) -> Iterator[np.ndarray]:
    """The strokes of each filled shape."""
    for shape in np.unique(filled[filled > 0]):
        yield np.flatnonzero(filled == shape)


def line_segments(
    points: np.ndarray,
    offsets: np.ndarray,
    widths: np.ndarray,
    filled: np.ndarray,
    size: int,
    minimum_width_px: float = MINIMUM_WIDTH_PX,
) -> tuple[np.ndarray, np.ndarray]:
    """All lines' segments on a canvas of `size` pixels: (n, 4) float32 x0, y0, x1, y1, and half their width (n,)."""
    lines = np.flatnonzero(filled == 0).tolist()
    if not lines:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    scaled = points.astype(np.float32) * np.float32(size)
    segments = [_segments(scaled, offsets, stroke, closed=False) for stroke in lines]
    half_widths = np.maximum(widths[lines].astype(np.float32) * np.float32(size), np.float32(minimum_width_px)) * HALF
    return np.concatenate(segments), np.repeat(half_widths, [len(own) for own in segments])


def outline_edges(points: np.ndarray, offsets: np.ndarray, strokes: np.ndarray, size: int) -> np.ndarray:
    """The edges (n, 4) float32 of one filled shape's outlines, each closed."""
    scaled = points.astype(np.float32) * np.float32(size)
    return np.concatenate([_segments(scaled, offsets, stroke, closed=True) for stroke in strokes.tolist()])


def _segments(points: np.ndarray, offsets: np.ndarray, stroke: int, closed: bool) -> np.ndarray:
    """(n, 4) x0, y0, x1, y1 of a stroke; a stroke of one point is a segment of no length, a dot."""
    own = points[offsets[stroke] : offsets[stroke + 1]]
    if len(own) == 1:
        return np.concatenate([own, own], axis=1)
    if closed:
        own = np.concatenate([own, own[:1]])
    return np.concatenate([own[:-1], own[1:]], axis=1)


class Spans(NamedTuple):
    """Rows of pixels that are looked at for segments, each (rows,): the segment's index, the row, the first column, the
    column after the last (not after the first: none), and whether the segment is drawn row by row near its line."""

    owner: np.ndarray
    row: np.ndarray
    first: np.ndarray
    end: np.ndarray
    slanted: np.ndarray


def spans(segments: np.ndarray, reach: np.ndarray, size: int) -> Spans:
    """The pixels that are looked at for each of the segments (n, 4): all whose centre is within `reach` (n,)."""
    x0, y0, x1, y1 = segments.T
    left, right = _centres(np.minimum(x0, x1), np.maximum(x0, x1), reach + HALF, size)
    top, bottom = _centres(np.minimum(y0, y1), np.maximum(y0, y1), reach + HALF, size)
    rows = np.where(right > left, bottom - top, 0)
    owner = np.repeat(np.arange(len(segments)), rows)
    row = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows) + top[owner]
    first, end = left[owner], right[owner]
    dx, dy = x1 - x0, y1 - y0
    is_slanted = ((right - left > WIDE_PX) & (np.abs(dy) >= ONE))[owner]
    slanted = np.flatnonzero(is_slanted)
    own = owner[slanted]
    slope = dx[own] / dy[own]
    margin = reach[own] * np.sqrt(slope * slope + ONE) + HALF
    on_line = x0[own] + ((row[slanted].astype(np.float32) + HALF) - y0[own]) * slope
    first_near, end_near = _centres(on_line, on_line, margin, size)
    first[slanted], end[slanted] = np.maximum(first[slanted], first_near), np.minimum(end[slanted], end_near)
    return Spans(owner, row, first, end, is_slanted)


def _centres(low: np.ndarray, high: np.ndarray, margin: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel whose centre is at least low - (margin - 1/2), and the one after the last up to high + ... ."""
    first = np.ceil(np.clip(low - margin, np.float32(0), np.float32(size)))
    end = np.floor(np.clip(high + margin, np.float32(0), np.float32(size)))
    return first.astype(np.int64), end.astype(np.int64)


def _near(segments: np.ndarray, reach: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (segment, pixel) of `spans`: the segment's index, the pixel's flat index, its centre's distance."""
    found = spans(segments, reach, size)
    counts = np.maximum(found.end - found.first, 0)
    span = np.repeat(np.arange(len(counts)), counts)
    column = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + found.first[span]
    owner, row = found.owner[span], found.row[span]
    x0, y0, x1, y1 = segments[owner].T
    centre_x, centre_y = column.astype(np.float32) + HALF, row.astype(np.float32) + HALF
    px, py, dx, dy = centre_x - x0, centre_y - y0, x1 - x0, y1 - y0
    qx, qy = centre_x - x1, centre_y - y1
    squared = dx * dx + dy * dy
    along = px * dx + py * dy
    inverse = ONE / np.sqrt(np.where(squared > 0, squared, ONE))
    across = np.abs(px * dy - py * dx) * inverse
    to_start, to_end = np.sqrt(px * px + py * py), np.sqrt(qx * qx + qy * qy)
    distance = np.where(along <= 0, to_start, np.where(along >= squared, to_end, across))
    return owner, row * size + column, distance


def _draw(segments: np.ndarray, reach: np.ndarray, canvas: np.ndarray) -> None:
    owner, pixel, distance = _near(segments, reach, len(canvas))
    np.maximum.at(canvas.reshape(-1), pixel, np.minimum(reach[owner] - distance, ONE))


def _fill(edges: np.ndarray, canvas: np.ndarray) -> None:
    size = len(canvas)
    # 1/2 - distance to the nearest edge, 0 where that is more than half a pixel: a line's coverage with reach 1/2
    edge = np.zeros((size, size), np.float32)
    _draw(edges, np.full(len(edges), HALF), edge)
    # Winding number of every pixel's centre: an edge that crosses the centre's row to the left of it counts +1 or -1.
    winding = np.zeros((size, size + 1), np.int64)
    centre = np.arange(size, dtype=np.float32)[:, None] + HALF
    x0, y0, x1, y1 = edges.T
    down = (y0 <= centre) & (y1 > centre)
    up = (y1 <= centre) & (y0 > centre)
    row, own = np.nonzero(down | up)
    slope = (x1 - x0)[own] / (y1 - y0)[own]
    crossing = x0[own] + (centre[row, 0] - y0[own]) * slope
    # the first pixel with its centre beyond
    first = np.floor(np.clip(crossing + HALF, np.float32(0), np.float32(size))).astype(np.int64)
    np.add.at(winding, (row, first), np.where(down[row, own], 1, -1))
    inside = winding.cumsum(axis=1)[:, :size] != 0
    np.maximum(canvas, np.where(inside, ONE - edge, edge), out=canvas)


def pixels_uint8(canvases: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Canvases as grey pictures for people: black ink on white, uint8."""
    return (255 - np.rint(255 * np.asarray(canvases))).astype(np.uint8)
