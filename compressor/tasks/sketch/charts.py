"""The report's charts of a student with several canvases: is the selector above the fixed ones, what does it choose.

Accuracy is that of the float student on the split's gallery; MACs count everything (query_cost.py), and the search is
through the device's gallery.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compressor.data.sketch import unpack_sketches
from compressor.tasks.sketch.query_cost import choice_macs, look_macs, policy_macs, search_macs
from compressor.tasks.sketch.selector.analysis import gain_over_hull, hull
from compressor.tasks.sketch.selector.features import combined
from profiles.statistics import bootstrap_interval
from targets.glue import Chart, Point, Scatter, Shares
from targets.graph import Arrays

if TYPE_CHECKING:
    from compressor.tasks.sketch.glue import Glue

MACS, ACCURACY = "multiply-accumulates per query, everything counted", "acc@1"
FIXED, ALWAYS, CHOOSING = "one canvas for every sketch", "the same looks for every sketch", "selector"
MIXTURES = "mixtures of two"
STROKE_BINS = (1, 2, 3, 5, 9, 17)  # the first stroke count of each bin


def draw_charts(glue: Glue, arrays: Arrays, macs: Mapping[str, float]) -> list[Chart]:
    """The front and, where a selector chooses, its shares; nothing where there is one canvas. `macs`: by graph."""
    canvases = tuple(sorted(int(name.removeprefix("encoder_")) for name in glue.graphs if name.startswith("encoder_")))
    if len(canvases) < 2:
        return []
    device, gallery = glue.device_gallery(arrays), glue.split_gallery(arrays)
    sketches, truth = unpack_sketches(arrays)[: len(arrays["truth"])], np.asarray(arrays["truth"], np.int64)
    search = search_macs(len(device), device.embeddings.shape[1])
    looks = look_macs(sketches, canvases, [macs[f"encoder_{px}"] for px in canvases], search)
    embeddings = np.stack([glue.encode(sketches, px) for px in canvases], axis=1)
    right = _right(glue, gallery, embeddings, truth)
    points = [_point(f"{px} px", looks[:, k], right[:, k], FIXED) for k, px in enumerate(canvases)]
    chosen_by = glue.chosen_by
    if chosen_by["kind"] == "fixed":
        return [front_chart(len(truth), points, right, looks, "")]
    own = [canvases.index(px) for px in glue.selector.canvases]
    paths = choice_macs(chosen_by, looks[:, own], sketches)
    if chosen_by["kind"] in ("gate", "cascade"):
        always = _right(glue, gallery, combined(embeddings[:, own], chosen_by["combine"]), truth)
        names = _path_names(chosen_by["kind"], glue.selector.canvases)
        points += [_point(names[k], paths[:, k], always[:, k], ALWAYS) for k in range(1, len(own))]
    selection = glue.select(sketches, gallery)
    answered = _right(glue, gallery, selection.embeddings[:, None], truth)[:, 0]
    ends = np.searchsorted(glue.selector.canvases, selection.canvas_px)
    spent = paths[np.arange(len(truth)), ends] + policy_macs(chosen_by, sketches, macs)
    points.append(_point(f"selector ({chosen_by['kind']})", spent, answered, CHOOSING))
    said = gain_in_words(answered, spent, right, looks)
    return [
        front_chart(len(truth), points, right, looks, said),
        _shares([len(sketch) for sketch in sketches], selection.canvas_px, glue.selector.canvases),
    ]


def front_chart(
    queries: int, points: list[Point], right: np.ndarray, looks: np.ndarray, said: str, title: str = "Canvases"
) -> Scatter:
    """Points above the line through the fixed canvases. right, looks (queries, K): each canvas's answers and MACs."""
    line = hull(looks.mean(0), right.mean(0))
    vertices = tuple((float(x), float(y)) for x, y in zip(line.macs, line.values, strict=True))
    text = f"The float student on {queries} queries. The line is what fixed canvases and mixtures of two of them reach."
    return Scatter(title, f"{text} {said}".strip(), MACS, ACCURACY, tuple(points), {MIXTURES: vertices})


def gain_in_words(answered: np.ndarray, spent: np.ndarray, right: np.ndarray, looks: np.ndarray) -> str:
    """How far a selector's answers (n,) at their MACs (n,) are above the line, with the paired interval."""
    if spent.mean() < looks.mean(0).min():
        return "The selector is cheaper than every fixed canvas, so there is nothing to compare it with."
    gain = gain_over_hull(answered, spent, right, looks)
    low, high = gain.ci95
    verdict = "above it" if low > 0 else "below it" if high < 0 else "not told apart from it"
    return f"The selector is {verdict}: {gain.gain:+.3f}, paired 95 % interval {low:+.3f} to {high:+.3f}."


def _right(glue: Glue, gallery: object, embeddings: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n, K) of 1 and 0: whether the right photo came first for embeddings (n, K, D)."""
    from compressor.tasks.sketch.glue import Gallery, ranks

    assert isinstance(gallery, Gallery)
    looked = range(embeddings.shape[1])
    return np.stack([ranks(gallery.similarities(embeddings[:, k]), truth) == 1 for k in looked], axis=1).astype(float)


def _point(label: str, macs: np.ndarray, right: np.ndarray, group: str) -> Point:
    return Point(label, float(macs.mean()), float(right.mean()), bootstrap_interval(right), group)


def _path_names(kind: str, canvases: tuple[int, ...]) -> list[str]:
    looked = [(canvases[0], px) if kind == "gate" else canvases[: k + 1] for k, px in enumerate(canvases)]
    return [" + ".join(map(str, path)) + " px, always" for path in looked]


def _shares(strokes: list[int], chosen_px: np.ndarray, canvases: tuple[int, ...]) -> Shares:
    """How often each canvas is the last one, by how many strokes a sketch has."""
    bins = np.searchsorted(STROKE_BINS, np.maximum(strokes, 1), side="right") - 1
    present = np.unique(bins)
    ends = [*(first - 1 for first in STROKE_BINS[1:]), None]
    names = [
        f"{first}+" if last is None else f"{first}" if first == last else f"{first} to {last}"
        for first, last in zip(STROKE_BINS, ends, strict=True)
    ]
    return Shares(
        title="Chosen canvas by strokes",
        text="The last canvas that a sketch was drawn on, by the number of its strokes.",
        x="strokes of the sketch",
        bins=tuple(names[index] for index in present),
        counts=tuple(int((bins == index).sum()) for index in present),
        parts={
            f"{px} px": tuple(float((chosen_px[bins == index] == px).mean()) for index in present) for px in canvases
        },
    )
