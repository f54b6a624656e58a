"""The plots, as plotly figures. Colours are CSS variables, resolved in the browser for its light or dark scheme."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report import words
from compressor.report.details import Teacher, record_key
from compressor.report.view import Card, Row
from profiles.errors import require

COLOURS = 6  # --series-1 ... --series-6 in the style sheet
SYMBOLS = {"fp32": "circle", "fp16": "square", "int8": "diamond"}
DASHES = {"fp32": "solid", "fp16": "dash", "int8": "dot"}
ECDF_POINTS = 160
ECDF_END = 0.995  # one straggler would else squeeze everything to the left
CURVE_POINTS = 240


def escaped(text: str) -> str:
    """A user's text inside plotly, which understands some HTML."""
    return html.escape(text)


def checked_figure(traces: Sequence[Any], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Checked by plotly.py, as plain data and without its default template."""
    go = require("plotly.graph_objects", "report")
    base = {
        "margin": {"l": 46, "r": 12, "t": 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--muted)", "size": 12},
        "hoverlabel": {"bgcolor": "var(--raised)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)"}},
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
    }
    value = go.Figure(data=list(traces), layout=base | dict(layout)).to_plotly_json()
    value["layout"].pop("template", None)
    return {"data": value["data"], "layout": value["layout"]}


def axis_of(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": escaped(title), "standoff": 8}, "gridcolor": "var(--line)", "linecolor": "var(--line-strong)",
        "zeroline": False, "automargin": True, "ticks": "", "fixedrange": True, **more,
    }  # fmt: skip


def log_axis(title: str, low: float, high: float, unit: str) -> dict[str, Any]:
    """A logarithmic axis with few, round, labelled ticks; `unit` is "count", "bytes" or "ms"."""
    pad = max(1.3, (high / low) ** 0.08)
    low, high = low / pad, high * pad
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= (6 if unit == "ms" else 5):
            break
    ticks = ticks[:: max(1, math.ceil(len(ticks) / 5))]
    say = {"count": words.count, "bytes": words.size, "ms": "{:g}".format}[unit]
    labels = [
        re.sub(r"\.0+(?=\D|$)|(?<=\.\d)0+(?=\D|$)", "", say(round(tick, 12))) for tick in ticks
    ]  # 1.50 M is 1.5 M
    return axis_of(title, type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks, ticktext=labels)


@dataclass(frozen=True)
class Encoding:
    """Which colour means what: the runtime, or the student where there are several."""

    by_student: bool
    names: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Encoding:
        students = tuple(dict.fromkeys(row.record.student for row in rows))
        if len(students) > 1:
            return cls(True, students)
        return cls(False, tuple(dict.fromkeys(row.record.runtime for row in rows)))

    def colour(self, row: Row) -> str:
        name = row.record.student if self.by_student else row.record.runtime
        return f"var({self.variable(name)})"

    def variable(self, name: str) -> str:
        return f"--series-{self.names.index(name) % COLOURS + 1}"


@dataclass(frozen=True)
class CostAxis:
    """One choice of horizontal axis for the trade-off."""

    key: str
    title: str
    unit: str
    what: str

    def value(self, row: Row) -> float | None:
        record = row.record
        if self.key == "macs":
            return record.macs
        if self.key == "bytes":
            return row.stored_bytes
        if self.key == "latency":
            return record.latency_ms.p50 if record.latency_ms else None
        return record.cost.value if record.cost and record.cost.kind == self.key else None

    def of_teacher(self, teacher: Teacher | None) -> float | None:
        if teacher is None:
            return None
        return {"macs": teacher.macs, "bytes": teacher.bytes}.get(self.key)


COST_AXES = (
    CostAxis("latency", "median latency per query, ms", "ms", "Latency"),
    CostAxis("bytes", "file size", "bytes", "File size"),
    CostAxis("macs", "multiply-accumulates per query", "count", "MACs"),
    CostAxis("instructions", "instructions per query", "count", "Instructions"),
    CostAxis("npu_cycles", "NPU cycles per query", "count", "NPU cycles"),
)


def available_axes(rows: Sequence[Row]) -> list[CostAxis]:
    """The axes on which at least one row with a metric has a value."""
    scored = [row for row in rows if row.record.task_metric]
    return [axis for axis in COST_AXES if any(axis.value(row) for row in scored)]


def _spread(values: Sequence[float], axis_ratio: float) -> list[float]:
    """The same values, with equal ones fanned out so that each point can be seen on an axis from 1 to `axis_ratio`."""
    spread = list(values)
    for index, value in enumerate(values):
        twins = [i for i, other in enumerate(values) if abs(math.log(other / value)) < 0.01]
        step = axis_ratio ** min(0.022, 0.18 / len(twins))
        spread[index] = value * step ** (twins.index(index) - (len(twins) - 1) / 2)
    return spread


def tradeoff(cards: Sequence[Card], axis: CostAxis, encoding: Encoding) -> dict[str, Any] | None:
    """Task metric against one cost, for the students of one device; None if none has both."""
    rows = [row for each in cards for row in each.rows if row.record.task_metric and axis.value(row)]
    if not rows:
        return None
    costs = [axis.value(row) or 0.0 for row in rows]
    teachers = [(each.teacher, axis.of_teacher(each.teacher), each.metric) for each in cards if each.metric]
    every_cost = [*costs, *(cost for _, cost, _ in teachers if cost)]
    places = _spread(costs, max(2.0, max(every_cost) / min(every_cost)))
    every_cost += places
    traces = [_point(row, x, cost, axis, encoding) for row, x, cost in zip(rows, places, costs, strict=True)]
    scores = [bound for row in rows for bound in _metric(row).ci95]
    shapes, notes = [], []
    for name, value, dash, side in _references(cards):
        scores.append(value)
        shapes.append({
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "layer": "below",
            "line": {"color": "var(--muted)", "width": 1, "dash": dash},
        })  # fmt: skip
        notes.append({
            "xref": "paper", "x": 0 if side == "left" else 1, "xanchor": side, "y": value, "yanchor": "bottom",
            "text": f"{escaped(name)} {words.score(value)}", "showarrow": False, "font": {"size": 11},
        })  # fmt: skip
    for teacher, cost, metric in teachers:
        if teacher and cost and metric and metric.teacher_value is not None:
            traces.append(_teacher_point(teacher, cost, metric.teacher_value, axis))
    low, high = min(scores), max(scores)
    pad = 0.12 * ((high - low) or abs(high) or 1.0)
    metric = _metric(rows[0])
    better = "higher" if metric.higher_is_better else "lower"
    return checked_figure(traces, {
        "xaxis": log_axis(axis.title, min(every_cost), max(every_cost), axis.unit),
        "yaxis": axis_of(f"{metric.name} ({better} is better)", range=[low - pad, high + pad], nticks=6),
        "shapes": shapes, "annotations": notes,
    })  # fmt: skip


def _metric(row: Row) -> Any:
    assert row.record.task_metric is not None
    return row.record.task_metric


def _references(cards: Sequence[Card]) -> list[tuple[str, float, str, str]]:
    """Horizontal lines: each teacher, and the float student where there is only one. (name, value, dash, side)."""
    lines: dict[tuple[str, float], tuple[str, float, str, str]] = {}
    for card in cards:
        if card.metric and card.metric.teacher_value is not None:
            value = card.metric.teacher_value
            lines["teacher", value] = ("teacher", value, "dash", "left")
        if card.metric and card.metric.float_value is not None and len(cards) == 1:
            value = card.metric.float_value
            lines["float", value] = ("float", value, "dot", "right")
    return list(lines.values())


def _point(row: Row, x: float, cost: float, axis: CostAxis, encoding: Encoding) -> Any:
    go = require("plotly.graph_objects", "report")
    metric, colour = _metric(row), encoding.colour(row)
    low, high = metric.ci95
    symbol = SYMBOLS.get(row.record.precision_requested, "triangle-up")
    verified = row.record.status == "verified"
    say = {"count": words.count, "bytes": words.size, "ms": lambda v: f"{words.milliseconds(v)} ms"}[axis.unit]
    student = f"{escaped(row.record.student)}<br>" if encoding.by_student else ""
    return go.Scatter(
        x=[x], y=[metric.value], mode="markers", name=escaped(row.artifact),
        error_y={
            "type": "data", "symmetric": False, "array": [high - metric.value], "arrayminus": [metric.value - low],
            "color": colour, "thickness": 1, "width": 3,
        },
        marker={
            "symbol": symbol if verified else f"{symbol}-open", "size": 10, "color": colour,
            "line": {"width": 1 if verified else 2, "color": "var(--paper)" if verified else colour},
        },
        hovertemplate=(
            f"{student}<b>{escaped(row.artifact)}</b> ({row.record.status})<br>{say(cost)}<br>"
            f"{escaped(metric.name)} {words.score(metric.value)} [{words.score(low)}, {words.score(high)}]"
            "<extra></extra>"
        ),
    )  # fmt: skip


def _teacher_point(teacher: Teacher, cost: float, value: float, axis: CostAxis) -> Any:
    go = require("plotly.graph_objects", "report")
    say = {"count": words.count, "bytes": words.size, "ms": words.milliseconds}[axis.unit]
    return go.Scatter(
        x=[cost], y=[value], mode="markers", name="teacher",
        marker={"symbol": "star", "size": 12, "color": "var(--muted)"},
        hovertemplate=f"<b>teacher: {escaped(teacher.name)}</b><br>{say(cost)}<br>{words.score(value)}<extra></extra>",
    )  # fmt: skip


def _quantiles(samples: Sequence[float], points: int) -> tuple[list[float], list[float]]:
    """The empirical distribution function up to `ECDF_END`, at every sample or at evenly spaced ranks."""
    ordered = sorted(samples)
    n = len(ordered)
    end = max(1, math.floor(n * ECDF_END))
    ranks = range(end) if end <= points else sorted({round(i * (end - 1) / (points - 1)) for i in range(points)})
    return [ordered[rank] for rank in ranks], [(rank + 1) / n for rank in ranks]


def distributions(rows: Sequence[Row], samples_ms: Mapping[str, Sequence[float]], encoding: Encoding) -> Any:
    """Share of calls that took at most so many milliseconds. `samples_ms` by `details.record_key`; None without any."""
    go = require("plotly.graph_objects", "report")
    traces, everything = [], []
    for row in rows:
        # a clock too coarse for the call gives zeros, which a logarithmic axis has no place for
        samples = [sample for sample in samples_ms.get(record_key(row.record), ()) if sample > 0]
        if row.record.latency_ms is None or not samples:
            continue
        x, y = _quantiles(samples, ECDF_POINTS)
        everything += [x[0], x[-1]]
        name = escaped(f"{row.record.student} {row.artifact}" if encoding.by_student else row.artifact)
        dash = DASHES.get(row.record.precision_requested, "longdash")
        traces.append(go.Scatter(
            x=[round(v, 6) for v in x], y=[round(v, 5) for v in y], mode="lines", name=name,
            line={"shape": "hv", "color": encoding.colour(row), "dash": dash, "width": 1.8},
            hovertemplate=f"<b>{name}</b><br>%{{y:.1%}} within %{{x:.3g}} ms<extra></extra>",
        ))  # fmt: skip
    if not traces:
        return None
    return checked_figure(traces, {
        "xaxis": log_axis("milliseconds per query", min(everything), max(everything), "ms"),
        "yaxis": axis_of("share of calls", range=[0, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 0.9],
                       ticktext=["0", "p25", "p50", "p75", "p90"]),
    })  # fmt: skip


def curve(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """One metric against the training step; long series are averaged in `CURVE_POINTS` equal bins."""
    go = require("plotly.graph_objects", "report")
    points = [(x, y) for x, y in points if math.isfinite(y)]
    bin_size = math.ceil(len(points) / CURVE_POINTS)
    bins = [points[i : i + bin_size] for i in range(0, len(points), bin_size)]
    x = [sum(p[0] for p in each) / len(each) for each in bins]
    y = [sum(p[1] for p in each) / len(each) for each in bins]
    trace = go.Scatter(
        x=[round(v, 2) for v in x], y=[float(f"{v:.5g}") for v in y], mode="lines" if len(x) > 30 else "lines+markers",
        line={"color": "var(--accent)", "width": 1.6}, marker={"size": 4},
        hovertemplate="step %{x:.0f}<br>%{y:.4g}<extra></extra>",
    )  # fmt: skip
    return checked_figure([trace], {"xaxis": axis_of("step", nticks=5), "yaxis": axis_of("", nticks=5)})
