"""How much of an evaluation fits into the time limit of a slow machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from targets.artifact import Artifact
from targets.target import Session

EVALUATION_SHARE = 0.8  # of what is left of the time limit: the rest is for examples and a busy machine


def splits_of(artifact: Artifact, settings: Mapping[str, Any]) -> list[str]:
    """The splits that the harness is asked for, of those that the artifact has."""
    asked: Sequence[str] = settings.get("splits", ("validation", "test"))
    return [name for name in asked if artifact.has_split(name)]


def passes(artifact: Artifact, sessions: Mapping[str, Session], settings: Mapping[str, Any]) -> list[int]:
    """Items of each pass that the harness makes over a split: the queries of the first, and the metric of every one."""
    splits = splits_of(artifact, settings)
    if not splits or len(sessions) < len(artifact.graphs):
        return []
    glue = artifact.student(sessions=sessions).glue
    items = [sum(1 for _ in glue.queries(artifact.split(name))) for name in splits]
    return [items[0], *(items if artifact.manifest["has_metric"] else ())]


def evaluation_limit(
    passes: Sequence[int], item_s: float, left_s: float, asked: int | None
) -> tuple[int | None, str | None]:
    """How many items of each split can be evaluated in the time that is left, and a note if these are not all.

    `passes`: items of each pass. `item_s`: seconds per item. `asked`: the most that is wanted of each, None for all.
    Raises RuntimeError if there is not even time for one item.
    """
    wanted = [size if asked is None else min(size, asked) for size in passes]
    all_s = item_s * sum(wanted)
    if all_s <= max(0.0, left_s):
        return asked, None
    possible = int(left_s / (item_s * len(wanted)))
    if possible < 1:
        raise RuntimeError(f"one item takes {item_s:.0f} s there: give a longer time limit")
    return possible, (
        f"evaluated on the first {possible} of {max(wanted)} items: all would take about {all_s / 60:.0f} min there"
    )
