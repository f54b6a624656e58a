"""Canvas selectors on a device: which canvas a sketch is drawn on, from its strokes or from a first look. numpy only.

The bundle's setting `selector` has a `kind` and what the kind needs; `canvases` are in pixels, smallest first:

    fixed       canvas_px                                  the same for every sketch
    statistics  canvases, tolerance, mean, std             graph `selector`: features (batch, 12) -> logits (batch, K)
    gru         canvases, tolerance, points, hidden        graph `selector_step`: point (batch, 5), state (batch, H)
                                                           -> next_state, logits; called once per point
    cascade     canvases, thresholds, measure, combine     looks at one canvas after the other until it is sure
    gate        canvases, tolerance, mean, std, combine    looks at canvas 0; graph `selector`: features (batch, 17)
                                                           -> logits (batch, K): 0 stops, k looks once more

mean, std: of the features, which a graph gets as clipped z-scores. Kinds are in SELECTORS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.selector.features import (
    NEAREST,
    Combine,
    combined,
    sequence_steps,
    stroke_statistics,
    sureness,
)
from compressor.tasks.sketch.simplify import five_tuples, simplify
from profiles.errors import RequestError
from targets.glue import GraphCall

Settings = Mapping[str, Any]
Graphs = Mapping[str, GraphCall]
Z_LIMIT = 4.0  # features beyond it are clipped: an int8 input has to spend its 256 steps somewhere


class Looks(Protocol):
    """What a selector may do: have sketches drawn and encoded, and ask how near the gallery's photos are."""

    def encode(self, sketches: Sequence[Sketch], canvas_px: int) -> np.ndarray:
        """L2-normalised embeddings (n, D)."""
        ...

    def nearest(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        """The largest cosines (n, at most count), best first."""
        ...


@dataclass(frozen=True)
class Selection:
    """canvas_px (n,): the last canvas that each sketch was drawn on. embeddings (n, D): what the gallery is asked."""

    canvas_px: np.ndarray
    embeddings: np.ndarray


class Selector(Protocol):
    """Chooses the side of the canvas for sketches, and embeds them. `canvases` are all that it may choose."""

    canvases: tuple[int, ...]

    def __call__(self, sketches: Sequence[Sketch], looks: Looks) -> Selection: ...


class OneLook:
    """A selector that decides before anything is drawn: `choose` gives the canvases of sketches, (n,) in pixels."""

    canvases: tuple[int, ...]

    def choose(self, sketches: Sequence[Sketch]) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, sketches: Sequence[Sketch], looks: Looks) -> Selection:
        chosen = np.asarray(self.choose(sketches))
        return Selection(chosen, encode_each(sketches, chosen, looks))


def encode_each(sketches: Sequence[Sketch], canvas_px: np.ndarray, looks: Looks) -> np.ndarray:
    """Embeddings (n, D) of sketches on their own canvases (n,); those of one canvas go through the encoder together."""
    embeddings: np.ndarray | None = None
    for px in np.unique(canvas_px):
        own = np.flatnonzero(canvas_px == px)
        part = looks.encode([sketches[index] for index in own.tolist()], int(px))
        if embeddings is None:
            embeddings = np.empty((len(sketches), part.shape[1]), part.dtype)
        embeddings[own] = part
    assert embeddings is not None  # there is at least one sketch
    return embeddings


class FixedCanvas(OneLook):
    """The same canvas for every sketch."""

    def __init__(self, settings: Settings, graphs: Graphs) -> None:
        self.canvases = (int(settings["canvas_px"]),)

    def choose(self, sketches: Sequence[Sketch]) -> np.ndarray:
        return np.full(len(sketches), self.canvases[0])


class ByStatistics(OneLook):
    """A small network on numbers of the strokes."""

    def __init__(self, settings: Settings, graphs: Graphs) -> None:
        self.canvases = _canvases(settings)
        self.tolerance = float(settings["tolerance"])
        self.scale = Scale.from_settings(settings)
        self.graph = _graph(graphs, "selector", settings)

    def choose(self, sketches: Sequence[Sketch]) -> np.ndarray:
        features = np.stack([stroke_statistics(sketch, self.tolerance) for sketch in sketches])
        logits = self.graph({"features": self.scale(features)})["logits"]
        return np.array(self.canvases)[np.argmax(logits, axis=1)]


class ByRecurrence(OneLook):
    """A GRU over the simplified drawing's points, one call of its cell per point, as SketchyNetV2 does."""

    def __init__(self, settings: Settings, graphs: Graphs) -> None:
        self.canvases = _canvases(settings)
        self.tolerance, self.points = float(settings["tolerance"]), int(settings["points"])
        self.hidden = int(settings["hidden"])
        self.step = _graph(graphs, "selector_step", settings)

    def choose(self, sketches: Sequence[Sketch]) -> np.ndarray:
        tuples = np.stack([five_tuples(simplify(sketch, self.tolerance), self.points) for sketch in sketches])
        steps = sequence_steps(tuples)
        state = np.zeros((len(tuples), self.hidden), np.float32)
        logits = np.zeros((len(tuples), len(self.canvases)), np.float32)
        for step in range(int(steps.max())):
            left = np.flatnonzero(steps > step)
            out = self.step({"point": tuples[left, step], "state": state[left]})
            state[left], logits[left] = out["next_state"], out["logits"]
        return np.array(self.canvases)[logits.argmax(axis=1)]


class Cascade:
    """Look at the smallest canvas; where it leaves a doubt, at the next one, and so on.

    measure "margin": the best similarity minus the second; "entropy": minus the entropy of the nearest ones. Below
    `thresholds[k]` after canvas k there is doubt.
    """

    def __init__(self, settings: Settings, graphs: Graphs) -> None:
        self.canvases = _canvases(settings)
        self.thresholds = tuple(float(value) for value in settings["thresholds"])
        self.measure, self.combine = str(settings["measure"]), settings["combine"]
        if len(self.thresholds) != len(self.canvases) - 1:
            raise RequestError(f"selector cascade: {len(self.canvases)} canvases need one threshold less")

    def __call__(self, sketches: Sequence[Sketch], looks: Looks) -> Selection:
        return look_on(sketches, looks, self.canvases, self.combine, self._doubtful)

    def _doubtful(self, level: int, similarities: np.ndarray) -> np.ndarray:
        return certainty(similarities, self.measure) < self.thresholds[level]


def certainty(similarities: np.ndarray, measure: str) -> np.ndarray:
    """How sure a look was, (n,), from the largest cosines (n, NEAREST), best first."""
    numbers = sureness(similarities)
    return numbers[:, 1] if measure == "margin" else -numbers[:, 4]


def look_on(
    sketches: Sequence[Sketch],
    looks: Looks,
    canvases: tuple[int, ...],
    combine: Combine,
    doubtful: Callable[[int, np.ndarray], np.ndarray],
) -> Selection:
    """Canvas after canvas for the sketches that are still in doubt."""
    canvas_px = np.full(len(sketches), canvases[0])
    seen = looks.encode(sketches, canvases[0])[:, None]
    asked = seen[:, 0].copy()
    left = np.arange(len(sketches))
    for level, px in enumerate(canvases[1:]):
        doubt = doubtful(level, looks.nearest(asked[left], NEAREST))
        left, seen = left[doubt], seen[doubt]
        if not len(left):
            break
        new = looks.encode([sketches[index] for index in left.tolist()], px)
        seen = np.concatenate([seen, new[:, None]], axis=1)
        asked[left], canvas_px[left] = combined(seen, combine)[:, -1], px
    return Selection(canvas_px, asked)


class Gate:
    """Look at the smallest canvas; a small network on how sure that was decides whether, and where, to look again."""

    def __init__(self, settings: Settings, graphs: Graphs) -> None:
        self.canvases = _canvases(settings)
        self.tolerance, self.combine = float(settings["tolerance"]), settings["combine"]
        self.scale = Scale.from_settings(settings)
        self.graph = _graph(graphs, "selector", settings)

    def __call__(self, sketches: Sequence[Sketch], looks: Looks) -> Selection:
        first = looks.encode(sketches, self.canvases[0])
        features = gate_features(sketches, looks.nearest(first, NEAREST), self.tolerance)
        choice = self.graph({"features": self.scale(features)})["logits"].argmax(axis=1)
        canvas_px, again = np.array(self.canvases)[choice], np.flatnonzero(choice)
        if len(again):
            second = encode_each([sketches[index] for index in again.tolist()], canvas_px[again], looks)
            first[again] = combined(np.stack([first[again], second], axis=1), self.combine)[:, -1]
        return Selection(canvas_px, first)


def gate_features(sketches: Sequence[Sketch], similarities: np.ndarray, tolerance: float) -> np.ndarray:
    """(n, 17) float32: `sureness` of the first look (n, NEAREST), then `stroke_statistics`."""
    strokes = np.stack([stroke_statistics(sketch, tolerance) for sketch in sketches])
    return np.concatenate([sureness(similarities), strokes], axis=1)


@dataclass(frozen=True)
class Scale:
    """Features to z-scores: mean and std (F,)."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def from_settings(cls, settings: Settings) -> Scale:
        return cls(np.array(settings["mean"], np.float32), np.array(settings["std"], np.float32))

    @classmethod
    def of(cls, features: np.ndarray) -> Scale:
        """Of features (n, F); a constant one is left at 0."""
        std = features.std(0)
        return cls(features.mean(0).astype(np.float32), np.where(std > 1e-6, std, 1.0).astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, F) float32 within +-Z_LIMIT."""
        scaled = (np.asarray(features, np.float32) - self.mean) / self.std
        return np.clip(scaled, -Z_LIMIT, Z_LIMIT).astype(np.float32)

    def to_settings(self) -> dict[str, list[float]]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}


def _canvases(settings: Settings) -> tuple[int, ...]:
    return tuple(int(px) for px in settings["canvases"])


def _graph(graphs: Graphs, name: str, settings: Settings) -> GraphCall:
    if name not in graphs:
        raise RequestError(
            f"the selector {settings['kind']!r} needs a graph {name!r}, which this student does not have"
        )
    return graphs[name]


SELECTORS: dict[str, Callable[[Settings, Graphs], Selector]] = {
    "fixed": FixedCanvas,
    "statistics": ByStatistics,
    "gru": ByRecurrence,
    "cascade": Cascade,
    "gate": Gate,
}
