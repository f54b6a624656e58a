"""What drawing a sketch costs: how often each part of the rasteriser runs, times its floating point operations.

Operations are counted by hand in firmware/raster.h, one each: addition, subtraction, multiplication, division, square
root, comparison, minimum and maximum. Absolute values, conversions and moves are none, as are integer operations.

    per pixel that is looked at for a segment, 13: centre 1; px 1; along 2; its two comparisons 2; the distance to the
        end, the dearest of three, 4; reach - distance 1; at most one 1; more than is there 1
    per row of a segment, 8: centre 1; py, qy 2; along_y, across_y, py2, qy2 4; the first centre 1
        of a slanted one 9 more: on_line 2; both sums 2; both clipped to the canvas 5
    per segment, 30: its end's coordinates 2; reach + 1/2 1; bounds: four extremes 4, four sums 4, clipped 10; dx, dy 2;
        squared 3; its comparison 1; inverse 2; |dy| against one 1
        of a slanted one 6 more: slope 1; margin 5, its root among them
        of an outline 14 more: two extremes 2; two sums 2; clipped 6; up or down 1; slope 3
    per crossing of an outline with a row's centre, 7: centre and its distance 2; crossing 2; + 1/2 1; clipped 2
    per stroke, 6: coordinates of its first point 2; half its width 3; + 1/2 1
    per filled shape, 14: four sums 4; clipped 10
        per point 6: coordinates 2; extremes 4
        per pixel of its box 2: one minus 1; more than is there 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.raster import (
    HALF,
    MINIMUM_WIDTH_PX,
    ONE,
    filled_shapes,
    line_segments,
    outline_edges,
    spans,
)

FLOPS = {
    "strokes": 6,
    "segments": 30,
    "slanted_segments": 6,
    "rows": 8,
    "slanted_rows": 9,
    "pixels": 13,
    "edges": 14,
    "crossings": 7,
    "shapes": 14,
    "box_points": 6,
    "box_pixels": 2,
}


@dataclass(frozen=True)
class RasterCost:
    """How often each part runs for one sketch. `pixels` are (segment, pixel) pairs, `rows` (segment, row) pairs."""

    strokes: int = 0
    segments: int = 0
    slanted_segments: int = 0
    rows: int = 0
    slanted_rows: int = 0
    pixels: int = 0
    edges: int = 0
    crossings: int = 0
    shapes: int = 0
    box_points: int = 0
    box_pixels: int = 0

    @property
    def flops(self) -> int:
        """Floating point operations, by the counts in the module's docstring."""
        return sum(FLOPS[name] * count for name, count in vars(self).items())

    def __add__(self, other: RasterCost) -> RasterCost:
        return RasterCost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def raster_cost(sketch: Sketch, canvas_px: int, minimum_width_px: float = MINIMUM_WIDTH_PX) -> RasterCost:
    """What drawing this sketch takes on a canvas of `canvas_px` x `canvas_px` pixels."""
    points, offsets, filled = sketch.points, sketch.offsets, sketch.filled
    segments, half_width = line_segments(points, offsets, sketch.widths, filled, canvas_px, minimum_width_px)
    total = RasterCost(strokes=len(sketch)) + _of_segments(segments, half_width + HALF, canvas_px)
    for strokes in filled_shapes(filled):
        edges = outline_edges(points, offsets, strokes, canvas_px)
        total += _of_segments(edges, np.full(len(edges), HALF), canvas_px) + _of_shape(edges, canvas_px)
    return total


def raster_flops(sketch: Sketch, canvas_px: int, minimum_width_px: float = MINIMUM_WIDTH_PX) -> int:
    """Floating point operations of drawing this sketch. To add to a network's, which are 2 x its MACs."""
    return raster_cost(sketch, canvas_px, minimum_width_px).flops


def raster_macs(sketch: Sketch, canvas_px: int, minimum_width_px: float = MINIMUM_WIDTH_PX) -> float:
    """Half of `raster_flops`: to add to a network's multiply-accumulates."""
    return raster_flops(sketch, canvas_px, minimum_width_px) / 2


def _of_segments(segments: np.ndarray, reach: np.ndarray, size: int) -> RasterCost:
    found = spans(segments, reach, size)
    return RasterCost(
        segments=len(segments),
        slanted_segments=len(np.unique(found.owner[found.slanted])),
        rows=len(found.row),
        slanted_rows=int(found.slanted.sum()),
        pixels=int(np.maximum(found.end - found.first, 0).sum()),
    )


def _of_shape(edges: np.ndarray, size: int) -> RasterCost:
    centre = np.arange(size, dtype=np.float32)[:, None] + HALF
    y0, y1 = edges[:, 1], edges[:, 3]
    crossings = int(((np.minimum(y0, y1) <= centre) & (np.maximum(y0, y1) > centre)).sum())
    low, high = edges[:, :2].min(axis=0), edges[:, :2].max(axis=0)
    first, end = np.ceil(np.clip(low - ONE, 0, size)), np.floor(np.clip(high + ONE, 0, size))
    box = int(np.maximum(end - first, 0).prod())
    return RasterCost(edges=len(edges), crossings=crossings, shapes=1, box_points=len(edges), box_pixels=box)
