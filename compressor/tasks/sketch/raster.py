"""The one rasteriser of the sketch task: training, evaluation and device draw the same pixels.

A line's coverage at a pixel is `clip(half_width + 1/2 - distance, 0, 1)`, with the distance from the pixel's centre to
the nearest segment, all in pixels; a filled outline's is `clip(1/2 - signed distance, 0, 1)`; overlapping ink takes the
largest. The numpy code below is the reference and all a device needs; where numba is installed, raster_numba.py draws
the same.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from compressor.data.sketch import Sketch

# Below one pixel a line fades instead of getting thinner, and a small canvas loses its ink.
MINIMUM_WIDTH_PX = 1.0
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
    scaled = points.astype(np.float64) * size
    lines = np.flatnonzero(filled == 0)
    if len(lines):
        segments = [_segments(scaled, offsets, stroke, closed=False) for stroke in lines.tolist()]
        half_widths = np.maximum(widths[lines].astype(np.float64) * size, minimum_width_px) / 2
        half_width = np.repeat(half_widths, [len(own) for own in segments])
        _draw_lines(np.concatenate(segments), half_width, canvas)
    for strokes in filled_shapes(filled):
        edges = [_segments(scaled, offsets, stroke, closed=True) for stroke in strokes.tolist()]
        _fill(np.concatenate(edges), canvas)


def filled_shapes(filled: np.ndarray) -> Iterator[np.ndarray]:
    """The strokes of each filled shape."""
    for shape in np.unique(filled[filled > 0]):
        yield np.flatnonzero(filled == shape)


def _segments(points: np.ndarray, offsets: np.ndarray, stroke: int, closed: bool) -> np.ndarray:
    """(n, 4) float64 x0, y0, x1, y1 of a stroke; a stroke of one point is a segment of no length, a dot."""
    own = points[offsets[stroke] : offsets[stroke + 1]]
    if len(own) == 1:
        return np.concatenate([own, own], axis=1)
    if closed:
        own = np.concatenate([own, own[:1]])
    return np.concatenate([own[:-1], own[1:]], axis=1)


def _near(segments: np.ndarray, reach: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (segment, pixel) whose pixel lies in the segment's bounding box widened by `reach` (n,).

    Returns the segment's index, the pixel's flat index, and the distance of the pixel's centre to the segment.
    """
    x0, y0, x1, y1 = segments.T
    left = np.clip(np.floor(np.minimum(x0, x1) - reach), 0, size).astype(np.int64)
    right = np.clip(np.ceil(np.maximum(x0, x1) + reach), 0, size).astype(np.int64)
    top = np.clip(np.floor(np.minimum(y0, y1) - reach), 0, size).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1) + reach), 0, size).astype(np.int64)
    counts = (right - left) * (bottom - top)
    owner = np.repeat(np.arange(len(segments)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    wide = (right - left)[owner]
    column, row = left[owner] + within % wide, top[owner] + within // wide
    dx, dy = (x1 - x0)[owner], (y1 - y0)[owner]
    px, py = column + 0.5 - x0[owner], row + 0.5 - y0[owner]
    squared = dx * dx + dy * dy
    along = np.clip((px * dx + py * dy) / np.where(squared > 0, squared, 1.0), 0.0, 1.0)
    distance = np.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2)
    return owner, row * size + column, distance


def _draw_lines(segments: np.ndarray, half_width: np.ndarray, canvas: np.ndarray) -> None:
    owner, pixel, distance = _near(segments, half_width + 0.5, len(canvas))
    coverage = np.clip(half_width[owner] + 0.5 - distance, 0.0, 1.0)
    np.maximum.at(canvas.reshape(-1), pixel, coverage.astype(np.float32))


def _fill(edges: np.ndarray, canvas: np.ndarray) -> None:
    size = len(canvas)
    to_edge = np.full(size * size, 0.5)
    _, pixel, distance = _near(edges, np.full(len(edges), 0.5), size)
    np.minimum.at(to_edge, pixel, distance)
    # Winding number of every pixel's centre: an edge that crosses the centre's row to the left of it counts +1 or -1.
    winding = np.zeros((size, size + 1), np.int64)
    centre = np.arange(size)[:, None] + 0.5
    x0, y0, x1, y1 = edges.T
    down = (y0 <= centre) & (y1 > centre)
    up = (y1 <= centre) & (y0 > centre)
    row, edge = np.nonzero(down | up)
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    first = np.clip(np.floor(crossing + 0.5), 0, size).astype(np.int64)  # the first pixel with its centre beyond
    np.add.at(winding, (row, first), np.where(down[row, edge], 1, -1))
    inside = winding.cumsum(axis=1)[:, :size].reshape(-1) != 0
    coverage = np.where(inside, 0.5 + to_edge, 0.5 - to_edge).astype(np.float32)
    np.maximum(canvas, coverage.reshape(size, size), out=canvas)


def pixels_uint8(canvases: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Canvases as grey pictures for people: black ink on white, uint8."""
    return (255 - np.rint(255 * np.asarray(canvases))).astype(np.uint8)
