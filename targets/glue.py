"""What joins a student's graphs on the device: numpy only, no torch.

A task's `glue.py` (named by the entry points "edge_compressor.tasks") has a class `Glue` that satisfies the protocol
below. `model` is the generic glue of a user's own single-graph model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from profiles.errors import RequestError
from targets.graph import Arrays

GROUP = "edge_compressor.tasks"
BUILTIN = "compressor.tasks"
SOUND_HZ = 16000

GraphCall = Callable[[Arrays], dict[str, np.ndarray]]


def evenly_spread(total: int, count: int) -> np.ndarray:
    """At most `count` of the indices 0 to total - 1, ascending, the first and the last among them.

    >>> evenly_spread(9, 3).tolist()
    [0, 4, 8]
    """
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


@dataclass(frozen=True)
class Evaluation:
    """The task's metric, per item: `scores` (n,), optional `weights` (n,); the value is their weighted mean.

    `extras` are further named numbers for the page (for example acc@5)."""

    name: str
    scores: np.ndarray
    weights: np.ndarray | None = None
    higher_is_better: bool = True
    extras: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return float(np.average(self.scores, weights=self.weights))


@dataclass(frozen=True)
class Answer:
    """One answer of an example: a picture (H, W, 1 or 3) uint8 or None, a label, and whether it is right."""

    image: np.ndarray | None
    label: str
    correct: bool


@dataclass(frozen=True)
class Example:
    """One query and what was answered, for the report.

    `query` is a picture (H, W, 1 or 3) uint8, a clip (T, H, W, 1 or 3) uint8 that the page plays, or None; `sound` (n,)
    int16 at SOUND_HZ is heard with it. `remark`: how the student did, where the right answer's place does not say it.
    """

    title: str
    query: np.ndarray | None
    answers: tuple[Answer, ...]
    sound: np.ndarray | None = None
    remark: str | None = None


@dataclass(frozen=True)
class Point:
    """One point of a scatter, with the 95 % interval of y. Points of one group look alike; `detail` is said of it."""

    label: str
    x: float
    y: float
    ci95: tuple[float, float] | None = None
    group: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Scatter:
    """A chart of points and lines (name -> vertices). `text` says in a sentence or two what there is to see."""

    title: str
    text: str
    x: str
    y: str
    points: tuple[Point, ...]
    lines: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shares:
    """A chart of bars that are split into parts: `parts` maps a name to its share (0 to 1) in each of the bins, of
    which bin i holds `counts[i]` items."""

    title: str
    text: str
    x: str
    bins: tuple[str, ...]
    counts: tuple[int, ...]
    parts: Mapping[str, tuple[float, ...]]


Chart = Scatter | Shares


class Glue(Protocol):
    """The interface of a task's class `Glue(graphs, settings, assets)`.

    `graphs` maps a graph's name to a callable feeds -> outputs, `settings` is what the bundle's writer gave, `assets`
    the directory with the bundle's assets. Where a task has them, three methods more:

        timings(query) -> {name with its unit: number} of one query as it comes in over time, on the clock
        macs(queries, answers) -> {what for: mean MACs per query} of what the glue does itself, beside the graphs
        charts(arrays, macs) -> list[Chart] for the report, of a split; `macs` are those of one call, by graph
    """

    def __call__(self, query: Any) -> Any:
        """Answer one raw query, as the device would: the path whose latency is the latency per query."""
        ...

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        """The metric on a split's arrays, or on its first `limit` items. May run whole batches."""
        ...

    def queries(self, arrays: Arrays) -> Iterator[Any]:
        """The split's raw queries, each fit for `__call__`."""
        ...

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        """Pictures for the report; an empty list where there is nothing to show."""
        ...


def resolve_glue(name: str) -> type[Glue]:
    """The class `Glue` of the task `name`, or the generic one for "model".

    Packages named by entry points of the group "edge_compressor.tasks" are searched, then the built-in one (which also
    serves a checkout that is not installed). Raises RequestError if there is none.
    """
    if name == "model":
        from targets.model import ModelGlue

        return ModelGlue
    if not name.isidentifier():
        raise RequestError(f"glue {name!r} is not the name of a task; the bundle was not written by this program")
    packages = [point.value for point in entry_points(group=GROUP)]
    for package in dict.fromkeys([*packages, BUILTIN]):
        module_name = f"{package}.{name}.glue"
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue  # this package has no such task; a missing import inside the glue is another matter
            raise
        return module.Glue
    raise RequestError(
        f"no glue for task {name!r}: install the package that brings it (searched {', '.join(packages)})"
    )
