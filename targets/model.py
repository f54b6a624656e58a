"""The generic glue of a user's own model: one graph, inputs as they are, and a metric on outputs and targets.

Arrays of a split: "inputs/NAME" (n, ...) for every input of the graph, and "targets" (n, ...) or, with several,
"targets/NAME".
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from targets.glue import Evaluation, Example, GraphCall
from targets.graph import Arrays

CHUNK = 64  # items per call while evaluating: bounds memory, and is one call where the batch is fixed


def _first(arrays: Arrays) -> np.ndarray:
    return next(iter(arrays.values()))


def _top(outputs: Arrays, targets: Arrays, k: int) -> np.ndarray:
    logits, truth = _first(outputs), _first(targets)
    if logits.ndim != 2 or truth.shape != (len(logits),):
        raise RequestError(
            f"metric top{k}: needs an output (n, classes) and targets (n,), got {logits.shape} and {truth.shape}"
        )
    # a stable order, so that a model that gives equal scores to everything is not called right
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return (best == truth[:, None]).any(axis=1).astype(np.float64)


def top1(outputs: Arrays, targets: Arrays) -> np.ndarray:
    """1 where the largest of the first output (n, classes) is the target class (n,), else 0."""
    return _top(outputs, targets, 1)


def top5(outputs: Arrays, targets: Arrays) -> np.ndarray:
    """1 where the target class is among the five largest, else 0."""
    return _top(outputs, targets, 5)


def _difference(outputs: Arrays, targets: Arrays, name: str) -> np.ndarray:
    found, truth = _first(outputs), _first(targets)
    if found.shape != truth.shape and found.shape == (*truth.shape, 1):
        found = found[..., 0]
    if found.shape != truth.shape:
        raise RequestError(
            f"metric {name}: the output is {found.shape}, the targets are {truth.shape}; give equal shapes"
        )
    return found.astype(np.float64).reshape(len(found), -1) - truth.reshape(len(truth), -1)


def mae(outputs: Arrays, targets: Arrays) -> np.ndarray:
    """Mean absolute error of the first output, per item."""
    return np.abs(_difference(outputs, targets, "mae")).mean(axis=1)


def mse(outputs: Arrays, targets: Arrays) -> np.ndarray:
    """Mean squared error of the first output, per item."""
    return np.square(_difference(outputs, targets, "mse")).mean(axis=1)


METRICS: dict[str, tuple[Callable[[Arrays, Arrays], np.ndarray], bool]] = {
    "top1": (top1, True),
    "top5": (top5, True),
    "mae": (mae, False),
    "mse": (mse, False),
}


def resolve_metric(name: str, file: Path | None = None) -> tuple[Callable[[Arrays, Arrays], np.ndarray], bool]:
    """(function, higher_is_better) for "top1", "top5", "mae", "mse" or the user's "module:function".

    The user's function takes outputs and targets by name and gives one score per item; its attribute
    `higher_is_better` (default True) says which way is better. `file`: the module's source, if it travels with the
    bundle; else the module is imported. Raises RequestError if there is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    module_name, function_name = metric_module(name)
    try:
        module = importlib.import_module(module_name) if file is None else _load_source(module_name, file)
        function = getattr(module, function_name)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise RequestError(f"--metric {name}: {type(error).__name__}: {error}") from None
    return function, bool(getattr(function, "higher_is_better", True))


def metric_module(name: str) -> tuple[str, str]:
    """("module", "function") of "module:function". Raises RequestError if `name` is not of that form."""
    module_name, colon, function_name = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        raise RequestError(f"--metric {name!r}: not one of {', '.join(METRICS)} and not module:function")
    return module_name, function_name


def _load_source(name: str, file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_metric_{name}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ModelGlue:
    """One graph whose inputs are the query.

    Settings: {"graph", "metric" or None, "metric_file": asset or None, "output": what the metric is computed on, by
    default the graph's first}.
    """

    def __init__(self, graphs: Mapping[str, GraphCall], settings: Mapping[str, Any], assets: Path) -> None:
        self.run = graphs[settings["graph"]]
        self.metric: str | None = settings.get("metric")
        self.output: str | None = settings.get("output")
        file = settings.get("metric_file")
        self.metric_file = assets / file if file else None

    def __call__(self, query: Arrays) -> dict[str, np.ndarray]:
        """`query`: every input by name, without a batch axis. Gives every output, without a batch axis."""
        outputs = self.run({name: np.asarray(value)[None] for name, value in query.items()})
        return {name: value[0] for name, value in outputs.items()}

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        if self.metric is None:
            raise RequestError("no metric: give --data with targets and --metric top1|top5|mae|mse|module:function")
        inputs, targets = self._split(arrays, limit)
        if not targets:
            raise RequestError(f"metric {self.metric}: the data has no targets; give them as the array 'targets'")
        function, higher_is_better = resolve_metric(self.metric, self.metric_file)
        count = len(_first(inputs))
        parts = [
            self.run({name: value[start : start + CHUNK] for name, value in inputs.items()})
            for start in range(0, count, CHUNK)
        ]
        names = sorted(parts[0], key=lambda name: name != self.output)  # stable: the metric's output goes first
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in names}
        try:
            scores = np.asarray(function(outputs, targets), dtype=np.float64)
        except RequestError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise RequestError(f"metric {self.metric}: {type(error).__name__}: {error}") from None
        if scores.shape != (count,):
            raise RequestError(f"metric {self.metric}: gave shape {scores.shape}, needs one score per item: ({count},)")
        if not np.isfinite(scores).all():
            raise RequestError(f"metric {self.metric}: gave scores that are not finite")
        return Evaluation(self.metric, scores, higher_is_better=higher_is_better)

    def queries(self, arrays: Arrays) -> Iterator[dict[str, np.ndarray]]:
        inputs, _ = self._split(arrays, None)
        for i in range(len(_first(inputs))):
            yield {name: value[i] for name, value in inputs.items()}

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        return []  # nothing is known about what a user's tensors show

    @staticmethod
    def _split(arrays: Arrays, limit: int | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        inputs = {k.removeprefix("inputs/"): v[:limit] for k, v in arrays.items() if k.startswith("inputs/")}
        targets = {
            k.removeprefix("targets/"): v[:limit]
            for k, v in arrays.items()
            if k == "targets" or k.startswith("targets/")
        }
        return inputs, targets
