"""The sections of the page that are tables or series: layers, budgets, training, credits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report import words
from compressor.report.details import Credit, Details, Layer
from compressor.report.view import Row
from profiles.results import BudgetState


@dataclass(frozen=True)
class LayerTable:
    """The layers of one graph, with their sums and what no counter knew (None: nobody counted)."""

    student: str
    graph: str
    layers: list[Layer]
    uncounted: dict[str, int] | None

    def total(self, field: str) -> float:
        return sum(getattr(layer, field) or 0 for layer in self.layers)

    def share(self, layer: Layer, field: str) -> float:
        """Percent of the graph's sum."""
        total = self.total(field)
        return 100 * (getattr(layer, field) or 0) / total if total else 0.0


def layer_tables(details: Details, rows: Sequence[Row]) -> list[LayerTable]:
    tables = []
    for student, graphs in details.layers.items():
        for graph, layers in graphs.items():
            mine = [row.record for row in rows if row.record.student == student and row.record.graph == graph]
            uncounted = next((r.uncounted_ops for r in mine if r.uncounted_ops is not None), None)
            tables.append(LayerTable(student, graph, layers, uncounted))
    return tables


def uncounted_without_layers(details: Details, rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """What was not counted in graphs that have no layer table, by "student, graph"."""
    return {
        f"{row.record.student}, {row.record.graph}": row.record.uncounted_ops
        for row in rows
        if row.record.uncounted_ops and row.record.graph not in details.layers.get(row.record.student, {})
    }


def budget_names(rows: Sequence[Row]) -> list[str]:
    """The limits that any row was held against, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.record.budget or {}))


def budget_title(name: str) -> str:
    """`latency_ms` as "latency, ms": the unit is the last part of the name."""
    stem, _, unit = name.rpartition("_")
    return f"{stem.replace('_', ' ')}, {unit}" if unit in ("ms", "bytes") and stem else name.replace("_", " ")


def budget_value(name: str, value: float | None) -> str:
    if value is None:
        return words.NOT_MEASURED
    if name.endswith("bytes"):
        return words.size(value)
    if name in ("macs", "instructions", "npu_cycles"):
        return words.count(value)
    return f"{words.milliseconds(value)}{words.NBSP}ms" if name.endswith("ms") else words.significant(value)


def budget_used(state: BudgetState) -> float | None:
    """Value over limit; None where that says nothing."""
    if state.value is None or state.limit <= 0:
        return None
    return max(0.0, state.value / state.limit)


@dataclass(frozen=True)
class Series:
    """One training metric of one stage."""

    stage: str
    metric: str
    points: list[tuple[float, float]]

    @property
    def last(self) -> str:
        return f"{self.points[-1][1]:.3g}"


def training_series(lines: Sequence[dict[str, Any]]) -> list[Series]:
    """Numbers that were logged at two steps or more, by stage and name; text and non-finite numbers are left out."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line in lines:
        step = _number(line.get("step"))
        for name, value in line.items():
            y = _number(value)
            if step is not None and y is not None and name != "step":
                found.setdefault((str(line.get("stage", "")), name), []).append((step, y))
    return [Series(stage, name, sorted(points)) for (stage, name), points in found.items() if len(points) > 1]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def all_credits(details: Details, with_plots: bool, plotly_version: str | None) -> list[Credit]:
    """The run's credits and, when it is in the page, the plotting library."""
    own = Credit(
        name="plotly.js", version=plotly_version, licence="MIT", url="https://github.com/plotly/plotly.js",
        note="draws the plots; contained in this page. Copyright Plotly, Inc.",
    )  # fmt: skip
    return [*details.credits, *([own] if with_plots else [])]
