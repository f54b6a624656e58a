"""What a task draws of its student: points with lines, and bars of shares, as plotly figures and their legends."""

from __future__ import annotations

from typing import Any

from compressor.report import words
from compressor.report.details import ScatterChart, SharesChart
from compressor.report.figures import COLOURS, axis_of, checked_figure, escaped, log_axis
from profiles.errors import require

Legend = list[tuple[str, str, str]]  # name, CSS variable, dashes
WIDE = 2.5  # the largest cost over the smallest, from which the axis is logarithmic


def drawn(chart: ScatterChart | SharesChart) -> tuple[dict[str, Any], Legend]:
    """The figure, and which colour means what."""
    return _scatter(chart) if isinstance(chart, ScatterChart) else _shares(chart)


def _legend(names: list[str]) -> Legend:
    return [(name, f"--series-{index % COLOURS + 1}", "") for index, name in enumerate(names)]


def _scatter(chart: ScatterChart) -> tuple[dict[str, Any], Legend]:
    go = require("plotly.graph_objects", "report")
    groups = list(dict.fromkeys(point.group for point in chart.points))
    legend = _legend(groups)
    traces = [
        go.Scatter(
            x=[x for x, _ in vertices], y=[y for _, y in vertices], mode="lines", hoverinfo="skip",
            line={"color": "var(--muted)", "width": 1.2, "dash": "dash"}, name=escaped(name),
        )
        for name, vertices in chart.lines.items()
    ]  # fmt: skip
    costs = [point.x for point in chart.points] or [1.0]
    # labels of points near the right edge stand to their left
    inner, sides = min(costs) + 0.8 * (max(costs) - min(costs)), ("middle right", "middle left")
    for group, variable, _ in legend:
        own = [point for point in chart.points if point.group == group]
        colour = f"var({variable})"
        low, high = ([p.ci95[side] if p.ci95 else p.y for p in own] for side in (0, 1))
        traces.append(go.Scatter(
            x=[p.x for p in own], y=[p.y for p in own], mode="markers+text", name=escaped(group),
            text=[escaped(p.label.removeprefix("lambda_F ")) for p in own],
            textposition=[sides[p.x > inner] for p in own],
            textfont={"size": 11, "color": colour}, marker={"size": 9, "color": colour},
            error_y={
                "type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 3,
                "array": [top - p.y for top, p in zip(high, own, strict=True)],
                "arrayminus": [p.y - bottom for bottom, p in zip(low, own, strict=True)],
            },
            hovertext=[_hover(p.label, p.x, p.y, p.ci95, p.detail) for p in own], hoverinfo="text",
        ))  # fmt: skip
    if max(costs) > WIDE * min(costs) > 0:
        x_axis = log_axis(chart.x, min(costs), max(costs), "count")
    else:
        pad = 0.12 * (max(costs) - min(costs) or max(costs) or 1.0)
        x_axis = axis_of(chart.x, range=[min(costs) - pad, max(costs) + 1.5 * pad], nticks=5, tickformat=".3s")
    lines = [(name, "--muted", "5 4") for name in chart.lines]
    return checked_figure(traces, {"xaxis": x_axis, "yaxis": axis_of(chart.y, nticks=6)}), [*legend, *lines]


def _hover(label: str, x: float, y: float, ci95: tuple[float, float] | None, detail: str) -> str:
    interval = f" [{words.score(ci95[0])}, {words.score(ci95[1])}]" if ci95 else ""
    more = f"<br>{escaped(detail)}" if detail else ""
    return f"<b>{escaped(label)}</b><br>{words.count(x)}<br>{words.score(y)}{interval}{more}"


def _shares(chart: SharesChart) -> tuple[dict[str, Any], Legend]:
    go = require("plotly.graph_objects", "report")
    legend = _legend(list(chart.parts))
    names = [f"{escaped(name)}<br>n {count}" for name, count in zip(chart.bins, chart.counts, strict=True)]
    traces = [
        go.Bar(
            x=names, y=chart.parts[part], name=escaped(part), marker={"color": f"var({variable})"},
            hovertemplate=f"<b>{escaped(part)}</b><br>%{{y:.0%}} of %{{x}}<extra></extra>",
        )
        for part, variable, _ in legend
    ]  # fmt: skip
    layout = {"barmode": "stack", "bargap": 0.25, "xaxis": axis_of(chart.x, type="category"),
              "yaxis": axis_of("share", range=[0, 1], tickformat=".0%", nticks=5)}  # fmt: skip
    return checked_figure(traces, layout), legend
