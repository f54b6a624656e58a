"""The precision policy of `--precision auto`: of what a device allows, the cheapest artifact that passes is kept.

Passing is what the records say: parity, the task metric within the device's allowance (by the paired interval on the
validation part), the budgets. Cheaper is faster, or fewer instructions, than the next higher precision that passes;
where neither was measured, or two latencies cannot be told apart, fewer bytes; where nothing could run, a lower
precision. Nothing is dropped silently: every precision that is not kept has its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from profiles.results import Record

PRECISIONS = ("fp32", "fp16", "int8")  # from the highest down
PASSING = ("verified", "built", "deferred")


@dataclass(frozen=True)
class Choice:
    """What is kept of one student on one device and runtime (None: nothing passes), and why the others are not."""

    student: str
    device: str
    runtime: str
    kept: str | None
    because: str
    dropped: Mapping[str, str]

    def sentence(self) -> str:
        """For a person, in one line."""
        head = (
            f"{self.runtime}: {self.kept} is kept, {self.because}" if self.kept else f"{self.runtime}: {self.because}"
        )
        return "; ".join([head, *(f"{precision} is not, {why}" for precision, why in self.dropped.items())])


def choose(records: Sequence[Record]) -> list[Choice]:
    """One choice per student, device and runtime, from the records of whole students ("*"), in order of appearance."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.graph == "*":
            groups.setdefault((record.student, record.device, record.runtime), []).append(record)
    return [_choice(group) for group in groups.values()]


def _choice(records: Sequence[Record]) -> Choice:
    ordered = sorted(records, key=lambda record: PRECISIONS.index(record.precision_requested))
    dropped = {
        record.precision_requested: f"{record.status}, {record.reason or 'no reason was given'}"
        for record in ordered
        if record.status not in PASSING
    }
    passing = [record for record in ordered if record.status in PASSING]
    first = ordered[0]
    where = (first.student, first.device, first.runtime)
    if not passing:
        return Choice(*where, None, "nothing passes", dropped)
    kept, because = passing[0], "the only precision that passes" if len(ordered) > 1 else "the only precision there is"
    for candidate in passing[1:]:
        cheaper, why = compare_cost(candidate, kept)
        if cheaper:
            dropped[kept.precision_requested] = f"{candidate.precision_requested} {why}"
            kept, because = candidate, f"it {why}"
        else:
            dropped[candidate.precision_requested] = f"it {why}"
            because = "no lower precision that passes is cheaper"
    return Choice(*where, kept.precision_requested, because, dropped)


def compare_cost(candidate: Record, kept: Record) -> tuple[bool, str]:
    """Whether `candidate` is cheaper than `kept`, and why or why not, in words."""
    name = kept.precision_requested
    ours, theirs = candidate.latency_ms, kept.latency_ms
    if ours is not None and theirs is not None:
        numbers = f"mean {ours.mean:.3g} ms against {theirs.mean:.3g} ms"
        if ours.ci95[1] < theirs.ci95[0]:
            return True, f"is faster than {name} ({numbers})"
        if ours.ci95[0] > theirs.ci95[1]:
            return False, f"is slower than {name} ({numbers})"
        smaller, why = _compare_bytes(candidate, kept)
        return smaller, f"is as fast as {name} ({numbers}, the intervals overlap) and {why}"
    if candidate.cost and kept.cost and candidate.cost.kind == kept.cost.kind:
        less = candidate.cost.value < kept.cost.value
        numbers = f"{candidate.cost.value:.4g} against {kept.cost.value:.4g} {candidate.cost.kind}"
        return less, f"takes {'fewer' if less else 'no fewer'} than {name} ({numbers})"
    if candidate.ran_on is None and kept.ran_on is None:
        return True, f"passes in arithmetic like {name}; how fast either is must be measured on the device"
    smaller, why = _compare_bytes(candidate, kept)
    return smaller, f"{why}, and how fast it is was not measured here"


def _compare_bytes(candidate: Record, kept: Record) -> tuple[bool, str]:
    ours, theirs = candidate.artifact_bytes, kept.artifact_bytes
    if ours is None or theirs is None:
        return False, f"nothing says that it is smaller than {kept.precision_requested}"
    words = f"{ours:,} bytes against {theirs:,}"
    return ours < theirs, f"is {'smaller' if ours < theirs else 'no smaller'} than {kept.precision_requested} ({words})"
