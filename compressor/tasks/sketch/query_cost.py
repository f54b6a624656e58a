"""What a query costs: the one place that decides it, for records, benchmarks and a selector's rewards alike (numpy).

All in multiply-accumulates. A graph's are its MACs, times how often a query calls it. What is no graph is the glue's:

    drawing    every look's canvas, by raster_cost.py
    search     every look is compared with the whole gallery of the device: photos x width of an embedding
    choosing   what a selector reads: simplification, numbers of the strokes, how sure a look was, z-scores

The search is made of MACs. Drawing and choosing are floating point operations of other kinds, which count half a MAC
each, because a MAC is two operations (flops = 2 x MACs). Additions, products, quotients, roots, comparisons, minima and
maxima are one operation each, and so is a logarithm, an exponential or an angle; integers and moves are none. Thus:

    simplification, per point that is compared with a segment, 15: two differences, dot 3, both ends 2, the dearest of
        three distances 7, farthest 1; per segment, 5: differences 2, squared length 3
    statistics, per point that remained, 24: edge 2, its length 4, heading 1, turn 6, area 5, sums 3, extremes 3
        and per drawing 24: logarithms, means, extents
    sureness, per neighbour, 9: logit 3, weight 1, sums 4, maximum 1; and 5 per look
    z-scores, per feature, 4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.raster import MINIMUM_WIDTH_PX
from compressor.tasks.sketch.raster_cost import raster_macs
from compressor.tasks.sketch.selector.features import NEAREST, STROKES, SURENESS, sequence_steps
from compressor.tasks.sketch.simplify import five_tuples, simplification_work, simplify

PER_COMPARISON, PER_SEGMENT = 15, 5
PER_POINT, PER_DRAWING = 24, 24
PER_NEIGHBOUR, PER_LOOK = 9, 5
PER_FEATURE = 4


def looks_of(kind: str, canvases: int) -> np.ndarray:
    """(K, K) of 0 and 1: which canvases (second axis) are looked at where the choice ends at one (first axis)."""
    looks = np.eye(canvases)
    if kind == "gate":
        looks[:, 0] = 1
    elif kind == "cascade":
        looks = np.tril(np.ones((canvases, canvases)))
    return looks


def search_macs(photos: int, width: int) -> int:
    """Of one search through the whole gallery."""
    return photos * width


def look_macs(
    views: Sequence[Sketch], canvases: tuple[int, ...], encoder_macs: Sequence[float], search: float
) -> np.ndarray:
    """(N, K): what one look on each canvas costs: drawing, encoding, and comparing with the gallery."""
    drawing = np.array([[raster_macs(sketch, px) for px in canvases] for sketch in views], np.float64)
    return drawing + np.asarray(encoder_macs, np.float64) + search


def choosing_macs(kind: str, sketch: Sketch, tolerance: float) -> float:
    """What a selector of this kind does beside its graph for one sketch; a cascade's is once per look but the last."""
    flops = 0.0
    if kind in ("statistics", "gate", "gru"):
        comparisons, segments = simplification_work(sketch, tolerance)
        flops += PER_COMPARISON * comparisons + PER_SEGMENT * segments
    if kind in ("statistics", "gate"):
        flops += PER_POINT * len(simplify(sketch, tolerance).points) + PER_DRAWING + PER_FEATURE * len(STROKES)
    if kind == "gate":
        flops += PER_FEATURE * len(SURENESS)
    if kind in ("gate", "cascade"):
        flops += PER_NEIGHBOUR * NEAREST + PER_LOOK
    return flops / 2


def policy_macs(settings: Mapping[str, Any], sketches: Sequence[Sketch], macs: Mapping[str, float]) -> np.ndarray:
    """(n,): what the selector's graph takes for each sketch. `macs`: of one call, by graph."""
    if settings["kind"] != "gru":
        return np.full(len(sketches), macs.get("selector", 0.0))
    tolerance, points = float(settings["tolerance"]), int(settings["points"])
    tuples = np.stack([five_tuples(simplify(sketch, tolerance), points) for sketch in sketches])
    return sequence_steps(tuples) * macs["selector_step"]


def choice_macs(settings: Mapping[str, Any], looks: np.ndarray, sketches: Sequence[Sketch]) -> np.ndarray:
    """(N, K): what a query costs that ends on each canvas, beside the selector's graph; `looks` (N, K): `look_macs`."""
    kind, canvases = settings["kind"], looks.shape[1]
    led_by = looks_of(kind, canvases)
    choosing = np.array([choosing_macs(kind, sketch, float(settings.get("tolerance", 0.0))) for sketch in sketches])
    return looks @ led_by.T + choosing[:, None] * doubts_of(kind, canvases)


def doubts_of(kind: str, canvases: int) -> np.ndarray:
    """(K,): how often a selector asks itself until it ends on each canvas; a cascade does after all but its last."""
    return np.minimum(np.arange(canvases) + 1, canvases - 1) if kind == "cascade" else np.ones(canvases)


def glue_macs(
    settings: Mapping[str, Any],
    canvases: tuple[int, ...],
    sketches: Sequence[Sketch],
    chosen_px: Sequence[int],
    search: float,
    minimum_width_px: float = MINIMUM_WIDTH_PX,
) -> dict[str, float]:
    """Mean MACs per query of what is no graph: "drawing", "search", "choosing".

    settings: a bundle's `selector`. chosen_px (n,): the canvas that each sketch was drawn on last.
    """
    kind, tolerance = settings["kind"], float(settings.get("tolerance", 0.0))
    looks = looks_of(kind, len(canvases))
    drawing = searches = choosing = 0.0
    for sketch, px in zip(sketches, chosen_px, strict=True):
        ends = canvases.index(int(px))
        looked = [canvases[index] for index in np.flatnonzero(looks[ends])]
        drawing += sum(raster_macs(sketch, own, minimum_width_px) for own in looked)
        searches += len(looked)
        choosing += doubts_of(kind, len(canvases))[ends] * choosing_macs(kind, sketch, tolerance)
    count = max(len(sketches), 1)
    return {"drawing": drawing / count, "search": search * searches / count, "choosing": float(choosing / count)}
