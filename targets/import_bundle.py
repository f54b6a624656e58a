"""The bundle of a user's model: its data divided, its metric taken along, the generic glue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from targets.export import BundleWriter
from targets.graph import Graph
from targets.import_data import Data, synthetic_inputs
from targets.model import METRICS, ModelGlue, metric_module

GRAPH = "model"
CALIBRATION_ITEMS = 256
GOLDEN_ITEMS = 32
SPLIT_FROM = 20  # fewer items than this are not divided into validation and test


def open_writer(
    out: Path,
    name: str,
    data: Data | None,
    metric: str | None,
    lineage: dict[str, Any],
    random_weights: bool = False,
) -> BundleWriter:
    """A writer for a student of one graph with the generic glue. Random weights have no metric."""
    return BundleWriter(
        out,
        student=name,
        task="model",
        glue="model",
        inputs="synthetic" if data is None else "real",
        random_weights=random_weights,
        has_metric=metric is not None and not random_weights,
        lineage=lineage,
    )


def fill(writer: BundleWriter, graph: Graph, data: Data | None, metric: str | None, learned: bool) -> None:
    """Data, metric and settings of a bundle whose graph was added."""
    settings: dict[str, Any] = {"graph": graph.name, "metric": metric if learned else None, "metric_file": None}
    writer.uses({"query": {graph.name: 1}})
    if data is None:
        inputs = synthetic_inputs(graph)
        writer.golden(graph.name, inputs)
        writer.split("validation", {f"inputs/{name}": value for name, value in inputs.items()})
        writer.settings(settings)
        return
    validation, test = _divide(len(data))
    golden = validation[-GOLDEN_ITEMS:]
    calibration = validation[:CALIBRATION_ITEMS]
    writer.golden(graph.name, {name: value[golden] for name, value in data.inputs.items()})
    writer.calibration(graph.name, {name: value[calibration] for name, value in data.inputs.items()})
    if metric is not None and metric not in METRICS:
        settings["metric_file"] = _take_metric(writer, metric)
    writer.settings(settings)
    for split, indices in (("validation", validation), ("test", test)):
        arrays = data.rows(indices)
        writer.split(split, arrays)
        if settings["metric"] is not None:
            glue = ModelGlue({graph.name: writer.reference(graph.name)}, settings, writer.root / "assets")
            evaluation = glue.evaluate(
                arrays
            )  # a metric that does not fit is found out here, before anything is compiled
            writer.metric(
                evaluation.name,
                evaluation.value,
                split=split,
                higher_is_better=evaluation.higher_is_better,
                n=len(evaluation.scores),
            )
    writer.lineage({"data": {"file": data.path.name, "items": len(data), "divided": len(data) >= SPLIT_FROM}})


def _divide(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the validation and the test half, by a fixed shuffle; all of a small set in both."""
    order = np.random.default_rng(0).permutation(count)
    if count < SPLIT_FROM:
        return order, order
    return order[: count // 2], order[count // 2 :]


def _take_metric(writer: BundleWriter, metric: str) -> str | None:
    """Put the metric's module into the bundle if it is a file of the working directory; None if it is installed."""
    module, _ = metric_module(metric)
    file = Path.cwd() / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        return None
    name = f"metric/{module}.py"
    writer.asset(name, file)
    return name
