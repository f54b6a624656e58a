"""Compare two results files: what got worse, what got better, what cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from profiles.results import STATUSES, Record, Results, TaskMetric

Severity = Literal["regression", "improvement", "info"]
_ORDER: dict[str, int] = {"regression": 0, "improvement": 1, "info": 2}
Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Finding:
    """One difference between a record and its baseline. `before` and `after` are None where there is no number."""

    severity: Severity
    student: str
    graph: str
    device: str
    runtime: str
    precision: str  # as requested
    quantity: str  # the field of the record
    before: float | str | None
    after: float | str | None
    message: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    results: Results, baseline: Results, *, tolerance: float = 0.05, metric_tolerance: float = 0.0
) -> list[Finding]:
    """What changed from `baseline` to `results`: regressions first, then improvements, then remarks.

    Records are matched by student, graph, device, runtime and requested precision.

    - A record that is gone and a worse status are regressions.
    - MACs, parameters, bytes, instructions and memory: a relative change beyond `tolerance`.
    - Latency (mean): a relative change beyond `tolerance` whose intervals do not overlap; not compared across hosts.
    - Task metric: a change beyond `metric_tolerance` (in the metric's unit) and beyond the interval of the difference.
      Both intervals are taken as independent, which is cautious when both runs read the same items.
    """
    ours, theirs = _by_key(results), _by_key(baseline)
    same_host = _host(results) == _host(baseline)
    findings: list[Finding] = []
    for key in sorted(ours.keys() | theirs.keys()):
        record, base = ours.get(key), theirs.get(key)
        if base is None:
            findings.append(_finding("info", key, "record", None, None, "new: the baseline has no such record"))
        elif record is None:
            findings.append(_finding("regression", key, "record", base.status, None, "gone: only the baseline has it"))
        else:
            findings += _compare_records(key, record, base, tolerance, metric_tolerance, same_host)
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def passes(findings: Sequence[Finding]) -> bool:
    """The gate: whether there is no regression among the findings."""
    return not any(finding.severity == "regression" for finding in findings)


def _by_key(results: Results) -> dict[Key, Record]:
    # A later record replaces an earlier one of the same key, as a repeated run does.
    return {(r.student, r.graph, r.device, r.runtime, r.precision_requested): r for r in results.records}


def _host(results: Results) -> tuple[Any, ...]:
    return tuple(results.run.host.get(key) for key in ("cpu", "machine", "cores"))


def _finding(
    severity: Severity, key: Key, quantity: str, before: float | str | None, after: float | str | None, message: str
) -> Finding:
    return Finding(severity, *key, quantity, before, after, message)


def _compare_records(
    key: Key, record: Record, base: Record, tolerance: float, metric_tolerance: float, same_host: bool
) -> Iterator[Finding]:
    if record.status != base.status:
        worse = STATUSES.index(record.status) > STATUSES.index(base.status)
        reason = f" ({record.reason})" if record.reason else ""
        message = f"was {base.status}, is {record.status}{reason}"
        yield _finding("regression" if worse else "improvement", key, "status", base.status, record.status, message)
    if record.precision != base.precision and record.precision and base.precision:
        message = f"the artifact was {base.precision}, is {record.precision}"
        yield _finding("info", key, "precision", base.precision, record.precision, message)
    yield from _compare_costs(key, record, base, tolerance)
    yield from _compare_latency(key, record, base, tolerance, same_host)
    yield from _compare_metric(key, record, base, metric_tolerance)


def _costs(record: Record) -> dict[str, float | None]:
    """Every number of a record of which less is better and which has no interval."""
    cost, memory = record.cost, record.memory_bytes
    values: dict[str, float | None] = {
        "artifact_bytes": record.artifact_bytes,
        "macs": record.macs,
        "parameters": record.parameters,
        # Counted and estimated costs are different quantities.
        **{
            f"cost.{kind}.{source}": cost.value if cost and (cost.kind, cost.source) == (kind, source) else None
            for kind in ("instructions", "npu_cycles")
            for source in ("counted", "estimated")
        },
    }
    for part in ("peak", "arena", "flash", "ram", "stack"):
        values[f"memory_bytes.{part}"] = getattr(memory, part) if memory else None
    return values


def _compare_costs(key: Key, record: Record, base: Record, tolerance: float) -> Iterator[Finding]:
    after_costs = _costs(record)
    for quantity, before in _costs(base).items():
        after = after_costs[quantity]
        if before is None and after is None:
            continue
        if before is None or after is None:
            message = "measured only now" if before is None else "measured only in the baseline"
            yield _finding("info", key, quantity, before, after, message)
        elif abs(after - before) > tolerance * abs(before):
            severity: Severity = "regression" if after > before else "improvement"
            yield _finding(severity, key, quantity, before, after, _change(before, after))


def _change(before: float, after: float) -> str:
    ratio = f" ({(after / before - 1) * 100:+.1f} %)" if before else ""
    return f"{before:.6g} to {after:.6g}{ratio}"


def _compare_latency(key: Key, record: Record, base: Record, tolerance: float, same_host: bool) -> Iterator[Finding]:
    after, before = record.latency_ms, base.latency_ms
    if after is None and before is None:
        return
    if after is None or before is None:
        message = "measured only now" if before is None else "measured only in the baseline"
        yield _finding(
            "info", key, "latency_ms", before.mean if before else None, after.mean if after else None, message
        )
        return
    obstacle = None
    if not same_host:
        obstacle = "not compared: the two files come from different hosts"
    elif after.threads != before.threads:
        obstacle = f"not compared: {before.threads} threads then, {after.threads} now"
    elif record.batch != base.batch:
        obstacle = f"not compared: batch {base.batch} then, {record.batch} now"
    if obstacle:
        yield _finding("info", key, "latency_ms", before.mean, after.mean, obstacle)
        return
    if abs(after.mean - before.mean) <= tolerance * before.mean:
        return
    overlap = after.ci95[0] <= before.ci95[1] and before.ci95[0] <= after.ci95[1]
    severity: Severity = "regression" if after.mean > before.mean else "improvement"
    suffix = ", but the intervals overlap" if overlap else ""
    message = f"mean {_change(before.mean, after.mean)} ms{suffix}"
    yield _finding("info" if overlap else severity, key, "latency_ms", before.mean, after.mean, message)


def _half_width(metric: TaskMetric) -> float:
    return (metric.ci95[1] - metric.ci95[0]) / 2


def _compare_metric(key: Key, record: Record, base: Record, metric_tolerance: float) -> Iterator[Finding]:
    after, before = record.task_metric, base.task_metric
    if after is None and before is None:
        return
    if after is None or before is None:
        # A metric that nobody reads any more hides every drop: that is a regression, its coming is none.
        gone = after is None
        message = "no longer measured" if gone else "measured only now"
        values = (before.value if before else None, after.value if after else None)
        yield _finding("regression" if gone else "info", key, "task_metric", *values, message)
        return
    if (after.name, after.split, after.higher_is_better) != (before.name, before.split, before.higher_is_better):
        message = f"not compared: {before.name} on {before.split} then, {after.name} on {after.split} now"
        yield _finding("info", key, "task_metric", before.value, after.value, message)
        return
    change = after.value - before.value
    if abs(change) <= metric_tolerance or change == 0:
        return
    half = math.hypot(_half_width(before), _half_width(after))
    better = (change > 0) == after.higher_is_better
    message = f"{after.name} {before.value:.4g} to {after.value:.4g} ({change:+.4g} +- {half:.4g})"
    if abs(change) <= half:
        yield _finding("info", key, "task_metric", before.value, after.value, f"{message}, within the interval")
        return
    severity: Severity = "improvement" if better else "regression"
    yield _finding(severity, key, "task_metric", before.value, after.value, message)
