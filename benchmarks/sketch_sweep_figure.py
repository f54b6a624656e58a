"""The sweep's Pareto front as an SVG file: acc@1 against MACs, everything counted."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 16, 52
COLOURS = {"cascade": "#0b6e99", "gate": "#b5482a", "statistics": "#5b8c2a", "gru": "#7a4aa0"}
GREY = "#6b7280"


def write_figure(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Points with their 95 % intervals: every fixed canvas, the line through them (mixtures), every selector. Of the
    first width and set of canvases; the others are in the results file."""
    from compressor.tasks.sketch.selector.analysis import hull
    from profiles.storage import atomic_file

    first = rows[0]["width"], rows[0]["canvases"]
    shown = [row for row in rows if (row["width"], row["canvases"]) == first]
    fixed = [row for row in shown if row["kind"] == "fixed"]
    points = [*fixed, *_selectors(shown)]
    line = hull([row["macs"] for row in fixed], [row["value"] for row in fixed])
    scale = _Scale(points)
    parts = [*scale.axes(), _polyline([(scale.x(x), scale.y(y)) for x, y in zip(line.macs, line.values, strict=True)])]
    for row in points:
        parts += _point(row, scale)
    names = [("fixed canvases and their mixtures", GREY)]
    names += [(kind, COLOURS[kind]) for kind in COLOURS if any(row["kind"] == kind for row in points)]
    left, top = WIDTH - RIGHT - 220, HEIGHT - BOTTOM - 17 * len(names)  # a front leaves this corner free
    parts += [
        f'<circle cx="{left}" cy="{top + 17 * i}" r="4" fill="{colour}"/>'
        f'<text x="{left + 10}" y="{top + 4 + 17 * i}">{html.escape(name)}</text>'
        for i, (name, colour) in enumerate(names)
    ]
    title = f"Sketch to photo, acc@1 against MACs per query; width {first[0] or 'of the recipe'}, canvases {first[1]}"
    with atomic_file(path) as temporary:
        temporary.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            f'font-size="12"><title>{html.escape(title)}</title><rect width="100%" height="100%" fill="#fff"/>'
            + "".join(parts)
            + "</svg>\n",
            encoding="utf-8",
        )


def _selectors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] in COLOURS]


class _Scale:
    """Where values are on the picture; MACs are logarithmic."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        macs = [math.log10(row["macs"]) for row in rows]
        bounds = [bound for row in rows for bound in row["ci95"]]
        wide, high = max(max(macs) - min(macs), 0.1), max(max(bounds) - min(bounds), 0.01)
        self.low_x, self.high_x = min(macs) - 0.08 * wide, max(macs) + 0.12 * wide
        self.low_y, self.high_y = min(bounds) - 0.05 * high, max(bounds) + 0.05 * high

    def x(self, macs: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(macs) - self.low_x) / (self.high_x - self.low_x)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low_y) / (self.high_y - self.low_y)

    def axes(self) -> list[str]:
        """Grid lines with their numbers, and what the axes are."""
        parts = []
        for step in (1, 1.5, 2, 3, 4, 5, 7):
            for decade in range(4, 10):
                macs = step * 10.0**decade
                if self.low_x <= math.log10(macs) <= self.high_x:
                    parts.append(_line(self.x(macs), TOP, self.x(macs), HEIGHT - BOTTOM))
                    parts.append(_text(self.x(macs), HEIGHT - BOTTOM + 18, f"{macs / 1e6:g} M"))
        spacing = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (self.high_y - self.low_y) / step < 9)
        for value in np.arange(math.ceil(self.low_y / spacing), self.high_y / spacing) * spacing:
            parts.append(_line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value)))
            parts.append(_text(LEFT - 6, self.y(value) + 4, f"{value:.2f}", "end"))
        middle = (HEIGHT - BOTTOM + TOP) / 2
        parts.append(
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "multiply-accumulates per query, everything counted")
        )
        parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">acc@1</text>')
        return parts


def _point(row: dict[str, Any], scale: _Scale) -> list[str]:
    colour = COLOURS.get(row["kind"], GREY)
    x, low, high = scale.x(row["macs"]), scale.y(row["ci95"][0]), scale.y(row["ci95"][1])
    label = row["variant"].removeprefix("fixed ") if row["kind"] == "fixed" else f"{row['lambda_F']:g}"
    return [
        f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}" opacity=".45"/>',
        f'<circle cx="{x:.1f}" cy="{scale.y(row["value"]):.1f}" r="4.5" fill="{colour}"/>',
        _text(x + 8, scale.y(row["value"]) + 4, label, "start", colour),
    ]


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{GREY}" stroke-dasharray="5 4" stroke-width="1.5"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#e5e7eb"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = "#374151") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'
