"""What the page says about the records: rows, one card per student and device, and remarks in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.report import words
from compressor.report.details import AgainstFloat, Details, Teacher, record_key
from profiles.results import STATUSES, Record, TaskMetric


@dataclass(frozen=True)
class Row:
    """One record with what the page needs beside it."""

    record: Record
    notes: list[str]
    extra: dict[str, float]  # further metrics by name
    timings: dict[str, float]  # of a query that comes in over time, by name with unit
    paired: AgainstFloat | None = None

    @property
    def artifact(self) -> str:
        return f"{self.record.runtime} {self.record.precision_requested}"

    @property
    def got(self) -> str | None:
        """The precision that came out, where it is not the one that was asked for."""
        got = self.record.precision
        return got if got and got != self.record.precision_requested else None

    @property
    def stored_bytes(self) -> float | None:
        """What is stored on the device: the files or, of generated C, the flash that it becomes there."""
        if self.record.runtime != "c":
            return self.record.artifact_bytes
        return self.record.memory_bytes.flash if self.record.memory_bytes else None

    @property
    def where(self) -> str:
        """Which machine ran it, and of what kind that machine is."""
        ran_on = self.record.ran_on
        if ran_on is None:
            return "did not run"
        if ran_on.kind == "emulator":
            return f"emulated by {ran_on.name}"
        if ran_on.kind == "device":
            return f"on the device ({ran_on.name})"
        if self.record.device == "host":
            return f"on this host ({ran_on.name})"
        return f"on the host ({ran_on.name}), not on the device"

    @property
    def where_short(self) -> str:
        """The same for a table, whose page names the hosts elsewhere."""
        ran_on = self.record.ran_on
        if ran_on is None:
            return ""
        if ran_on.kind == "emulator":
            return f"emulated by {ran_on.name}"
        if ran_on.kind == "device":
            return "on the device"
        return "on this host" if self.record.device == "host" else "on the host, not the device"

    @property
    def versus_float(self) -> float | None:
        metric = self.record.task_metric
        return None if metric is None or metric.float_value is None else metric.value - metric.float_value

    @property
    def kept(self) -> str | None:
        """The metric relative to the teacher's, in words: a share, or of an error how many times as large it is."""
        metric = self.record.task_metric
        if metric is None or not metric.teacher_value or metric.teacher_value <= 0 or metric.value < 0:
            return None
        ratio = metric.value / metric.teacher_value
        return words.percent(ratio) if metric.higher_is_better else f"{words.significant(ratio, 2)}{words.NBSP}×"

    @property
    def worse_than_float(self) -> bool:
        """The paired interval of the difference is on the worse side of zero; where there is none, the float value lies
        outside the interval of the artifact's."""
        metric = self.record.task_metric
        if metric is not None and self.paired is not None:
            low, high = self.paired.ci95
            return high < 0 if metric.higher_is_better else low > 0
        if metric is None or metric.float_value is None:
            return False
        low, high = metric.ci95
        return metric.float_value > high if metric.higher_is_better else metric.float_value < low


@dataclass(frozen=True)
class Card:
    """The headline of one student on one device."""

    student: str
    device: str
    device_summary: str | None
    statuses: list[tuple[str, int]]  # best first
    rows: list[Row]
    teacher: Teacher | None
    best: Row | None
    best_because: str
    metric_row: Row | None  # whose task metric the card shows: the best's, else the first that was measured

    @property
    def metric(self) -> TaskMetric | None:
        return self.metric_row.record.task_metric if self.metric_row else None

    @property
    def has_teacher(self) -> bool:
        """Whether there is one at all, whatever is known of it."""
        return self.teacher is not None or bool(self.metric and self.metric.teacher_value is not None)

    @property
    def macs(self) -> float | None:
        return next((row.record.macs for row in self.rows if row.record.macs is not None), None)

    @property
    def parameters(self) -> int | None:
        return next((row.record.parameters for row in self.rows if row.record.parameters is not None), None)

    @property
    def kept(self) -> str | None:
        return self.metric_row.kept if self.metric_row else None


def whole_students(records: Sequence[Record]) -> list[Record]:
    """The records of whole students; those of single graphs only where a student has no record of its own."""
    whole = {(record.student, record.device) for record in records if record.graph == "*"}
    return [r for r in records if r.graph == "*" or (r.student, r.device) not in whole]


def rows_of(records: Sequence[Record], details: Details) -> list[Row]:
    def row(record: Record) -> Row:
        key = record_key(record)
        paired = details.against_float.get(key)
        return Row(
            record, details.notes.get(key, []), details.extra_metrics.get(key, {}), details.timings.get(key, {}), paired
        )

    return [row(record) for record in records]


def cards_of(rows: Sequence[Row], details: Details) -> list[Card]:
    """One card per student and device, in order of first appearance."""
    groups = _by_student_and_device(rows)
    return [_card(student, device, group, details) for (student, device), group in groups.items()]


def _by_student_and_device(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.record.student, row.record.device), []).append(row)
    return groups


def _card(student: str, device: str, rows: list[Row], details: Details) -> Card:
    counts: Counter[str] = Counter(row.record.status for row in rows)
    best, because = _best(rows)
    measured = [row for row in rows if row.record.task_metric is not None]
    metric_row = best if best and best.record.task_metric else next(iter(measured), None)
    return Card(
        student=student, device=device, device_summary=details.devices.get(device),
        statuses=[(status, counts[status]) for status in STATUSES if counts[status]], rows=rows,
        teacher=details.teachers.get(student), best=best, best_because=because, metric_row=metric_row,
    )  # fmt: skip


def _best(rows: Sequence[Row]) -> tuple[Row | None, str]:
    """The cheapest of the verified, which have all passed parity, accuracy and budget; and why this one."""
    verified = [row for row in rows if row.record.status == "verified"]
    timed = [row for row in verified if row.record.latency_ms is not None]
    if timed:
        best = min(timed, key=_mean_ms)
        rivals = [row.artifact for row in timed if row is not best and _intervals_overlap(row, best)]
        tie = f"; the intervals of {listed(rivals)} overlap with its own" if rivals else ""
        return best, f"lowest mean latency of the verified{tie}"
    counted = [row for row in verified if row.record.cost is not None]
    if counted and len({row.record.cost.kind for row in counted if row.record.cost}) == 1:
        best = min(counted, key=_cost)
        assert best.record.cost is not None
        return best, f"fewest {words.cost_kind(best.record.cost)} of the verified; latency was not measured"
    sized = [row for row in verified if row.stored_bytes is not None]
    if sized:
        return min(sized, key=lambda row: row.stored_bytes or 0), (
            "smallest file of the verified; latency was not measured"
        )
    return (verified[0], "first of the verified; neither latency nor size was measured") if verified else (None, "")


def _mean_ms(row: Row) -> float:
    assert row.record.latency_ms is not None
    return row.record.latency_ms.mean


def _cost(row: Row) -> float:
    assert row.record.cost is not None
    return row.record.cost.value


def _intervals_overlap(a: Row, b: Row) -> bool:
    first, second = a.record.latency_ms, b.record.latency_ms
    assert first is not None and second is not None
    return first.ci95[0] <= second.ci95[1] and second.ci95[0] <= first.ci95[1]


def listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by student and device, with a title for each group; the only group needs none ("")."""
    groups = _by_student_and_device(rows)
    students = {student for student, _ in groups}
    if len(groups) == 1:
        return [("", list(rows))]
    return [(f"{s} on {d}" if len(students) > 1 else d, group) for (s, d), group in groups.items()]


def findings(rows: Sequence[Row]) -> list[str]:
    """What a reader of the numbers would be sorry to overlook, one sentence each."""
    several_students = len({row.record.student for row in rows}) > 1
    devices: dict[tuple[str, str], list[str]] = {}  # what holds on several devices is said once
    for row in rows:
        who = f"{row.record.student}, {row.artifact}" if several_students else row.artifact
        reference = _float_row(row, rows)
        for sentence in (*_slower(row, reference), *_larger(row, reference), *_less_accurate(row, reference)):
            devices.setdefault((who, sentence), []).append(row.record.device)
    said = [f"{who} on {listed(where)} {sentence}" for (who, sentence), where in devices.items()]
    return said + _about_devices(rows)


def _float_row(row: Row, rows: Sequence[Row]) -> Row | None:
    """The fp32 artifact of the same student, graph, device and runtime, for a row of lower precision."""

    def same(other: Row) -> bool:
        a, b = row.record, other.record
        return (a.student, a.graph, a.device, a.runtime, a.batch) == (b.student, b.graph, b.device, b.runtime, b.batch)

    if row.record.precision_requested == "fp32":
        return None
    return next((other for other in rows if other.record.precision_requested == "fp32" and same(other)), None)


def _slower(row: Row, reference: Row | None) -> list[str]:
    if reference is None or row.record.latency_ms is None or reference.record.latency_ms is None:
        return []
    ours, theirs = row.record.latency_ms, reference.record.latency_ms
    overlap = _intervals_overlap(row, reference)
    if ours.mean <= theirs.mean or (overlap and row.record.precision_requested != "int8"):
        return []
    sure = "the intervals overlap" if overlap else "the intervals do not overlap"
    return [
        f"is slower than fp32: mean {words.milliseconds(ours.mean)} ms against {words.milliseconds(theirs.mean)} ms "
        f"({sure})."
    ]


def _larger(row: Row, reference: Row | None) -> list[str]:
    if reference is None or not row.stored_bytes or not reference.stored_bytes:
        return []
    if row.stored_bytes < reference.stored_bytes:
        return []
    return [f"is no smaller than fp32: {words.size(row.stored_bytes)} against {words.size(reference.stored_bytes)}."]


def _less_accurate(row: Row, reference: Row | None) -> list[str]:
    """Against the float student or, where its value is not known, against the fp32 artifact."""
    metric = row.record.task_metric
    if metric is None:
        return []
    if row.paired is not None:
        if row.paired.difference == 0 or (row.paired.difference > 0) == metric.higher_is_better:
            return []
        low, high = row.paired.ci95
        sure = "paired interval" if low <= 0 <= high else "significantly: paired interval"
        return [
            f"is less accurate than the float student: {metric.name} {words.difference(row.paired.difference)} "
            f"({sure} {words.difference(low)} to {words.difference(high)})."
        ]
    other, name = metric.float_value, "the float student"
    if other is None and reference is not None and reference.record.task_metric is not None:
        other, name = reference.record.task_metric.value, "fp32"
    if other is None or metric.value == other or (metric.value > other) == metric.higher_is_better:
        return []
    sure = "within" if metric.ci95[0] <= other <= metric.ci95[1] else "outside"
    return [
        f"is less accurate than {name}: {metric.name} {words.score(metric.value)} against {words.score(other)} "
        f"({words.difference(metric.value - other)}, {sure} its 95{words.NBSP}% interval)."
    ]


def _about_devices(rows: Sequence[Row]) -> list[str]:
    said = []
    for device in dict.fromkeys(row.record.device for row in rows):
        here = [row for row in rows if row.record.device == device]
        ran = [row for row in here if row.record.ran_on is not None]
        if ran and not any(row.record.latency_ms for row in ran):
            machines = listed(sorted({row.where for row in ran}))
            counted = any(row.record.cost and row.record.cost.source == "counted" for row in ran)
            instead = " What was counted there is exact, but is no time." if counted else ""
            said.append(f"No latency for {device}: its artifacts ran {machines}.{instead}")
        costs = {row.artifact: row.record.cost.source for row in here if row.record.cost}
        if estimated := [artifact for artifact, source in costs.items() if source == "estimated"]:
            whose = "" if len(estimated) == len(costs) else f" of {listed(estimated)}"
            said.append(f"The cost{whose} on {device} is a compiler's estimate, not a measurement.")
        if any(row.record.parity and row.record.parity.inputs == "synthetic" for row in here):
            said.append(f"Parity on {device} was checked on random inputs, because the model came without data.")
    return said
