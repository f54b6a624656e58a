"""int8 files that fail their gates, compiled again with the layers that hurt left in float.

`targets.sensitivity` ranks the layers; the count that its simulation asks for is tried first, then twice as many,
and so on. What counts is what the compiled file measures. Bounded in rounds and in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from profiles.device import Device
from profiles.results import Record
from targets import sandbox
from targets.artifact import Artifact
from targets.bundle import Bundle
from targets.measurement import Measurement
from targets.parity import INT8_SQNR_DB
from targets.sensitivity import MARGIN_DB
from targets.target import get_target

ROUNDS = 5
TIMEOUT_S = 90.0  # after which no other round begins
RANKING_S = 30.0  # of those, for the ranking
FIRST_SHARE = 0.05  # of the layers, where the simulation says that none must stay float and the file says otherwise
LARGEST_SHARE = 0.7  # with more of the layers in float it is no int8 file any more


IN_VAIN = "so it is with {} of {} layers in float: train it with quantisation, or keep float"
UNTRIED = "a file with layers in float was not tried: ranking them took all of the time that there is"


@dataclass(frozen=True)
class Combination:
    """One cell of the matrix. `refusal`: why it is not tried, known beforehand."""

    device: Device
    runtime: str
    precision: str
    refusal: str | None = None

    def with_options(self, **options: Any) -> Combination:
        """The same cell, with other options of the runtime."""
        profile = self.device.runtimes[self.runtime]
        changed = profile.model_copy(update={"options": {**profile.options, **options}})
        runtimes = {**self.device.runtimes, self.runtime: changed}
        return replace(self, device=self.device.model_copy(update={"runtimes": runtimes}))


@dataclass(frozen=True)
class Attempt:
    """An artifact, what was measured of it (None: it did not run), and its records; the last is the whole student's."""

    rows: list[Record]
    artifact: Artifact
    found: Measurement | None

    @property
    def whole(self) -> Record:
        return self.rows[-1]


def repair(
    bundle: Bundle,
    cell: Combination,
    failed: Attempt,
    attempt: Callable[[Combination], Attempt],
    say: Callable[[str], None] = lambda _: None,
) -> Attempt:
    """The first attempt that passes with layers in float, else the last one, with what was tried in its reason.

    Targets that cannot leave layers in float (no attribute `sensitivity`) give the failed attempt back.
    """
    settings = getattr(get_target(cell.runtime), "sensitivity", None)
    if settings is None:
        return failed
    start = time.monotonic()
    say(f"{cell.runtime} int8 fails ({failed.whole.reason}): looking for the layers that hurt")
    try:
        ranking, first = _rank(bundle, failed, settings)
    except sandbox.SandboxError as error:
        return _explained(failed, f"the search for layers that hurt failed: {error.reason}")
    last, tried, count = failed, 0, first or max(1, round(FIRST_SHARE * len(ranking)))
    most = max(1, int(LARGEST_SHARE * len(ranking)))
    for _ in range(ROUNDS):
        if tried == most or time.monotonic() - start > TIMEOUT_S:
            break
        count = min(count, most)  # the simulation may ask for more than the file needs
        say(f"{cell.runtime} int8 again, with {count} of {len(ranking)} layers in float")
        last, tried = attempt(cell.with_options(exclude_layers=ranking[:count])), count
        if last.whole.status not in ("rejected", "failed"):
            return last
        count *= 2
    return _explained(last, IN_VAIN.format(tried, len(ranking)) if tried else UNTRIED)


def _explained(attempt: Attempt, why: str) -> Attempt:
    """The attempt with `why` behind the reasons of its rejected rows, of graphs as of the whole student."""

    def explained(row: Record) -> Record:
        bad = row.status in ("rejected", "failed")
        return row.model_copy(update={"reason": f"{row.reason}; {why}"}) if bad else row

    return replace(attempt, rows=[explained(row) for row in attempt.rows])


def _rank(bundle: Bundle, failed: Attempt, settings: dict[str, Any]) -> tuple[list[str], int]:
    """Layers of the graphs that failed, or of all where the student as a whole did, worst first; and how many of them
    the simulation leaves in float."""
    graphs = [row.graph for row in failed.rows[:-1] if row.status == "rejected"] or list(bundle.graphs)
    limit_db = INT8_SQNR_DB + MARGIN_DB
    alone: dict[str, float] = {}
    count = 0
    function = settings.get("function", "targets.sensitivity:search")
    more = {key: value for key, value in settings.items() if key != "function"}
    for name in graphs:
        arguments = {
            "bundle": str(bundle.path), "graph": name, "limit_db": limit_db,
            "timeout_s": RANKING_S / len(graphs), **more,
        }  # fmt: skip
        found = sandbox.call(function, arguments, doing=f"ranking the layers of {name}", timeout_s=2 * TIMEOUT_S).value
        alone.update(found["alone_db"])
        count += len(found["excluded"] or ())
    return sorted(alone, key=lambda layer: alone[layer]), count
