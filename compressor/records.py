"""The records of results.json: one per graph, and one ("*") for the whole student, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from profiles.device import Device, budget_values
from profiles.flops import Costs
from profiles.results import BudgetState, Memory, RanOn, Record, TaskMetric
from profiles.statistics import Difference, bootstrap_interval, paired_bootstrap
from targets.artifact import Artifact, worst
from targets.bundle import Bundle
from targets.glue import Chart, Evaluation
from targets.measurement import Measurement, cost_per_query, memory_together

DEFAULT_METRIC_DROP = 0.01  # where the device profile has no metric_drop: one point


@dataclass(frozen=True)
class Subject:
    """A bundle and what is known of it before anything is compiled.

    `costs` by graph. `floats` by split: the float student's evaluation, empty if there is no metric. `glue_macs`: what
    the glue does per query beside the graphs, by what it is for, where its task counts it. `charts`: its task's.
    """

    bundle: Bundle
    costs: dict[str, Costs]
    floats: dict[str, Evaluation]
    glue_macs: Mapping[str, float] = field(default_factory=dict)
    charts: tuple[Chart, ...] = ()

    def query_macs(self, calls: Mapping[str, float]) -> dict[str, float]:
        """The parts of a query's MACs: each graph's times how often it is called, and the glue's."""
        return {name: times * self.costs[name].macs for name, times in calls.items()} | dict(self.glue_macs)


def known_beforehand(
    subject: Subject, device: Device, runtime: str, precision: str, status: str, reason: str
) -> list[Record]:
    """The records of a combination that was not compiled."""
    return [
        Record(
            student=subject.bundle.student,
            graph=graph,
            device=device.name,
            runtime=runtime,
            precision_requested=precision,
            status=status,  # type: ignore[arg-type]
            reason=reason,
            **(_costs(subject, {graph: 1.0}) if graph != "*" else _whole_costs(subject, subject.bundle.uses["query"])),
        )
        for graph in [*subject.bundle.graphs, "*"]
    ]


def measured(
    subject: Subject, device: Device, artifact: Artifact, found: Measurement | None, shown_split: str
) -> list[Record]:
    """The records of an artifact. `found` is None if it could not be run: the artifact says why."""
    graphs = [_graph_record(subject, device, artifact, found, name) for name in artifact.graphs]
    return [*graphs, _whole_record(subject, device, artifact, found, shown_split, graphs)]


def _costs(subject: Subject, calls: Mapping[str, float]) -> dict[str, Any]:
    """MACs per query (weighted by how often a graph is called); parameters once per weights file."""
    costs = {name: subject.costs[name] for name in calls}
    uncounted: dict[str, int] = {}
    for graph_costs in costs.values():
        for operator, count in graph_costs.uncounted.items():
            uncounted[operator] = uncounted.get(operator, 0) + count
    macs = sum(calls[name] * graph_costs.macs for name, graph_costs in costs.items())
    entries = subject.bundle.manifest["graphs"]
    per_weights = {entries[name].get("weights") or name: cost.parameters for name, cost in costs.items()}
    return {
        "macs": macs,
        "flops": 2 * macs,
        "parameters": sum(per_weights.values()),
        "uncounted_ops": uncounted,
    }


def _whole_costs(subject: Subject, calls: Mapping[str, float]) -> dict[str, Any]:
    """`_costs` of a query, with what the glue does itself."""
    macs = sum(subject.query_macs(calls).values())
    return {**_costs(subject, calls), "macs": macs, "flops": 2 * macs}


def _common(artifact: Artifact, device: Device) -> dict[str, Any]:
    return {
        "student": artifact.student_name,
        "device": device.name,
        "runtime": artifact.runtime,
        "runtime_version": artifact.manifest["runtime_version"],
        "precision_requested": artifact.precision_requested,
        "artifact_path": str(artifact.path),
    }


def _graph_record(subject: Subject, device: Device, artifact: Artifact, found: Measurement | None, name: str) -> Record:
    entry = artifact.manifest["graphs"][name]
    record = Record(
        graph=name,
        status=entry["status"],
        reason=entry["reason"],
        precision=entry["precision"],
        artifact_bytes=entry["bytes"],
        artifact_sha256=entry["sha256"],
        ran_on=RanOn(**entry["ran_on"]) if entry["ran_on"] else None,
        cost=artifact.cost(name),
        memory_bytes=artifact.memory(name),
        **_common(artifact, device),
        **_costs(subject, {name: 1.0}),
    )
    if found is None:
        return record
    return record.model_copy(
        update={
            "batch": 1,
            "input_shapes": {spec.name: list(spec.concrete(batch=1)) for spec in artifact.graphs[name].inputs},
            "parity": found.parity(name),
            "latency_ms": found.latency(name),
            "cost": found.cost(name) or record.cost,
            "memory_bytes": _known(record.memory_bytes, found.memory(name)),
        }
    )


def _known(compiler: Memory | None, measured: Memory) -> Memory:
    """What was measured, and what only the compiler knows."""
    known = {**(compiler.model_dump() if compiler else {}), **measured.model_dump(exclude_none=True)}
    return Memory.model_validate(known)


def _whole_record(
    subject: Subject,
    device: Device,
    artifact: Artifact,
    found: Measurement | None,
    shown_split: str,
    graphs: list[Record],
) -> Record:
    """The whole student per query: costs weighted by calls, the task metric, the budget; the worst status."""
    calls = (found.calls if found else {}) or subject.bundle.uses["query"]
    precisions = {record.precision for record in graphs}
    status, reason = worst(record.status for record in graphs), artifact.reason
    record = Record(
        graph="*",
        status=status,  # type: ignore[arg-type]
        reason=reason,
        precision=precisions.pop() if len(precisions) == 1 else "mixed",
        artifact_bytes=artifact.bytes if all(record.artifact_bytes is not None for record in graphs) else None,
        artifact_sha256=artifact.sha256,
        ran_on=graphs[0].ran_on,
        cost=cost_per_query({record.graph: record.cost for record in graphs}, calls),
        memory_bytes=_whole_memory(graphs, found),
        **_common(artifact, device),
        **_whole_costs(subject, calls),
    )
    if found is not None:
        record = record.model_copy(
            update={
                "batch": 1,
                "cost": found.cost("*") if found.whole else record.cost,
                "latency_ms": found.latency("*"),
                "task_metric": _task_metric(subject, found, shown_split),
            }
        )
    return _gated(record, subject, device, found)


def _whole_memory(graphs: Sequence[Record], found: Measurement | None) -> Memory | None:
    if found and found.whole:
        return found.memory("*")
    memory = memory_together({record.graph: record.memory_bytes or Memory() for record in graphs})
    memory = memory.model_copy(update={"peak": found.peak_bytes if found else None})
    return memory if memory.model_dump(exclude_none=True) else None


def _gated(record: Record, subject: Subject, device: Device, found: Measurement | None) -> Record:
    """The record with its budget; a limit that is missed turns verified and built into rejected."""
    if found is None and record.status != "built":
        return record
    drop, too_much = _metric_drop(subject, device, found) if found else (None, None)
    budget = device.evaluate_budget({**budget_values(record), "metric_drop": drop})
    if found is None:
        budget = {name: _of_a_compiler(name, state) for name, state in budget.items()}
    if "metric_drop" in budget and drop is not None:
        # The gate is the interval, as in `_metric_drop`: noise alone neither passes nor fails a file.
        budget["metric_drop"] = BudgetState(
            limit=budget["metric_drop"].limit, value=drop, state="missed" if too_much else "passed"
        )
    missed = [
        f"{name} is {state.value:g}, the device's budget is {state.limit:g}"
        for name, state in budget.items()
        if state.state == "missed" and state.value is not None and name != "metric_drop"
    ]
    problem = too_much or "; ".join(missed)
    if problem and record.status in ("verified", "built"):
        record = record.model_copy(update={"status": "rejected", "reason": problem})
    return record.model_copy(update={"budget": budget or None})


def _of_a_compiler(name: str, state: BudgetState) -> BudgetState:
    """What is known of a limit without a run: that it is missed, but never that it is kept. A compiler knows its own
    arena and constants, not the program around them; sizes of files and MACs are what they are."""
    if state.state == "passed" and name not in ("artifact_bytes", "macs"):
        return BudgetState(limit=state.limit, value=None, state="unknown")
    return state


def _task_metric(subject: Subject, found: Measurement, split: str) -> TaskMetric | None:
    """The metric on the split that is shown (the test part), beside the float student's and the teacher's."""
    evaluation = found.evaluation(split)
    if evaluation is None:
        return None
    reference = _float_on_same_items(subject, split, evaluation)
    return TaskMetric(
        name=evaluation.name,
        value=evaluation.value,
        ci95=bootstrap_interval(evaluation.scores, evaluation.weights),
        n=len(evaluation.scores),
        split=split,
        float_value=reference.value if reference else None,
        teacher_value=subject.bundle.teacher_value(split),
        higher_is_better=evaluation.higher_is_better,
    )


def against_float(subject: Subject, found: Measurement, split: str) -> tuple[Difference, int] | None:
    """The metric minus the float student's, paired over the items that both were asked, and how many they are."""
    evaluation = found.evaluation(split)
    reference = _float_on_same_items(subject, split, evaluation)
    if evaluation is None or reference is None:
        return None
    return paired_bootstrap(evaluation.scores, reference.scores, evaluation.weights), len(evaluation.scores)


def _float_on_same_items(subject: Subject, split: str, compiled: Evaluation | None) -> Evaluation | None:
    """The float student's evaluation, of those first items only that the compiled one was evaluated on."""
    reference = subject.floats.get(split)
    if reference is None or compiled is None or len(compiled.scores) == len(reference.scores):
        return reference
    n = len(compiled.scores)
    weights = None if reference.weights is None else reference.weights[:n]
    return replace(reference, scores=reference.scores[:n], weights=weights, extras={})


def _metric_drop(subject: Subject, device: Device, found: Measurement) -> tuple[float | None, str | None]:
    """How much the metric fell on the validation part, and why that is too much (None if it is not).

    It is too much if the whole paired interval lies beyond the device's allowance.
    """
    compiled = found.evaluation("validation")
    reference = _float_on_same_items(subject, "validation", compiled)
    if compiled is None or reference is None:
        return None, None
    sign = 1.0 if compiled.higher_is_better else -1.0
    fall = paired_bootstrap(sign * reference.scores, sign * compiled.scores, compiled.weights)
    allowed = device.budget.metric_drop if device.budget.metric_drop is not None else DEFAULT_METRIC_DROP
    low, high = fall.ci95
    if low <= allowed:
        return fall.difference, None
    return fall.difference, (
        f"{compiled.name} on the validation part is {fall.difference:.3f} worse than in float "
        f"(95 % interval {low:.3f} to {high:.3f}), the device allows {allowed:g}"
    )
