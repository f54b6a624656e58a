"""The page: everything it shows is gathered here and handed to the templates."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from compressor.report import figures, task_charts, words
from compressor.report.details import ScatterChart
from compressor.report.pictures import shown_examples
from compressor.report.sources import Inputs, read_inputs
from compressor.report.tables import (
    all_credits,
    budget_names,
    budget_title,
    budget_used,
    budget_value,
    layer_tables,
    training_series,
    uncounted_without_layers,
)
from compressor.report.view import Card, Row, cards_of, findings, grouped, listed, rows_of, whole_students
from profiles.errors import require
from profiles.storage import atomic_file


def write_report(results_paths: Sequence[Path], out: Path) -> None:
    """Write one self-contained HTML page from results.json files and the details.json beside each.

    Raises RequestError if a file is missing or not of this schema, MissingError without the extra `report`.
    """
    for module in ("jinja2", "plotly", "PIL"):
        require(module, "report")
    html = render(read_inputs(results_paths))
    with atomic_file(out) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render(inputs: Inputs) -> str:
    """The page as text."""
    rows = rows_of(inputs.records, inputs.details)
    whole = rows_of(whole_students(inputs.records), inputs.details)
    cards = cards_of(whole, inputs.details)
    plots = _Plots(inputs, cards, whole)
    data = json.dumps(plots.figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    library, version = _plotly_js() if plots.figures else (None, None)
    return _environment().get_template("report.html").render(
        inputs=inputs, details=inputs.details, rows=rows, whole=whole, cards=cards, plots=plots,
        findings=findings(whole), layer_tables=layer_tables(inputs.details, rows),
        uncounted=uncounted_without_layers(inputs.details, rows), budgets=budget_names(rows),
        examples=shown_examples(inputs.details.examples), choices=inputs.details.choices,
        credits=all_credits(inputs.details, library is not None, version),
        figures=data, plotly=library, nonce=hashlib.sha256(data.encode()).hexdigest()[:32],
    )  # fmt: skip


class _Plots:
    """The figures by the id of their place in the page; `figures[id]` maps a choice of axis ("": none) to a figure."""

    def __init__(self, inputs: Inputs, cards: Sequence[Card], whole: Sequence[Row]) -> None:
        self.figures: dict[str, dict[str, Any]] = {}
        self.encoding = figures.Encoding.of(whole)
        self.precisions = list(dict.fromkeys(row.record.precision_requested for row in whole))
        self.axes = figures.available_axes(whole)
        self.tradeoffs = self._tradeoffs(cards)
        self.latencies = self._latencies(inputs, whole)
        self.training = self._training(inputs)
        self.charts = self._charts(inputs)

    def _tradeoffs(self, cards: Sequence[Card]) -> list[dict[str, Any]]:
        groups: dict[tuple[str, str], list[Card]] = {}  # one plot per device and metric
        for card in cards:
            if card.metric:
                groups.setdefault((card.device, card.metric.name), []).append(card)
        places: list[dict[str, Any]] = []
        for (device, metric), group in groups.items():
            drawn = {axis.key: figures.tradeoff(group, axis, self.encoding) for axis in self.axes}
            place = f"tradeoff-{len(places)}"
            self.figures[place] = drawn
            places.append({"id": place, "device": device, "metric": metric, "drawn": drawn})
        return places if self.axes else []

    def _latencies(self, inputs: Inputs, whole: Sequence[Row]) -> list[dict[str, Any]]:
        places: list[dict[str, Any]] = []
        for device in dict.fromkeys(row.record.device for row in whole):
            here = [row for row in whole if row.record.device == device]
            figure = figures.distributions(here, inputs.details.latency_samples_ms, self.encoding)
            if figure:
                place = f"latency-{len(places)}"
                self.figures[place] = {"": figure}
                places.append({"id": place, "device": device})
        return places

    def _training(self, inputs: Inputs) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """student -> stage -> plots."""
        places: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for student, lines in inputs.details.training.items():
            for series in training_series(lines):
                place = f"training-{len(self.figures)}"
                self.figures[place] = {"": figures.curve(series.points)}
                places.setdefault(student, {}).setdefault(series.stage, []).append({"id": place, "series": series})
        return places

    def _charts(self, inputs: Inputs) -> dict[str, list[dict[str, Any]]]:
        """student -> what its task draws."""
        places: dict[str, list[dict[str, Any]]] = {}
        for student, charts in inputs.details.charts.items():
            for chart in charts:
                place = f"chart-{len(self.figures)}"
                figure, legend = task_charts.drawn(chart)
                self.figures[place] = {"": figure}
                scatter = isinstance(chart, ScatterChart)
                places.setdefault(student, []).append(
                    {"id": place, "chart": chart, "legend": legend, "scatter": scatter}
                )
        return places


def _plotly_js() -> tuple[str, str]:
    """plotly.js as base64 of gzip (2 MB in the page instead of 5; the browser unpacks it), and its version."""
    source = require("plotly.offline", "report").get_plotlyjs()
    found = re.search(r"plotly\.js v([\w.]+)", source[:200])
    packed = gzip.compress(source.encode("utf-8"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii"), found.group(1) if found else ""


def _environment() -> Any:
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("compressor", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": words.count, "size": words.size, "ms": words.milliseconds, "score": words.score,
        "difference": words.difference, "percent": words.percent, "shape": words.shape, "flat": flat,
        "cost_kind": words.cost_kind,
        "grouped": grouped, "day": day, "listed": listed,
    }  # fmt: skip
    environment.globals |= {
        "fraction": words.fraction, "web_address": web_address, "budget_title": budget_title,
        "budget_value": budget_value, "budget_used": budget_used,
        "strip": metric_strip, "as_text": lambda name, value: getattr(words, name)(value),
        "NOT_MEASURED": words.NOT_MEASURED,
    }  # fmt: skip
    return environment


def day(date: str) -> str:
    """An ISO 8601 date and time to the minute, as "2031-02-03 04:05 UTC"; another text as it is."""
    try:
        when = datetime.fromisoformat(date)
    except ValueError:
        return date
    zone = {None: "", timedelta(0): " UTC"}.get(when.utcoffset(), f" UTC{when.strftime('%z')}")
    return f"{when:%Y-%m-%d %H:%M}{zone}"


def web_address(url: str | None) -> str | None:
    """The address if it is one of the web's: no other scheme becomes a link."""
    return url if url and re.match(r"https?://", url) else None


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested names and values as rows of text; bytes with their unit."""
    rows: list[tuple[str, str]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            rows += flat(inner, f"{prefix}{name}.")
        elif isinstance(inner, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(map(str, inner))))
        elif name.endswith("_bytes") and isinstance(inner, int):
            rows.append((f"{prefix}{name.removesuffix('_bytes')}", words.size(inner)))
        else:
            rows.append((f"{prefix}{name}", NOT_KNOWN if inner is None else str(inner)))
    return rows


NOT_KNOWN = "not known"


def metric_strip(card: Card) -> dict[str, Any] | None:
    """Places, in percent of a scale from 0, of a card's metric, its interval, the float value and the teacher's."""
    metric = card.metric
    if metric is None or metric.ci95[0] < 0:
        return None
    marks = [metric.ci95[1], metric.value, metric.float_value or 0.0, metric.teacher_value or 0.0]
    scale = 100 / (1.08 * max(marks)) if max(marks) > 0 else 0.0
    place = {
        "value": metric.value, "low": metric.ci95[0], "high": metric.ci95[1],
        "float": metric.float_value, "teacher": metric.teacher_value,
    }  # fmt: skip
    return {name: None if value is None else round(value * scale, 2) for name, value in place.items()}
