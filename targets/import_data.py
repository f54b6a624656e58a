"""What a user gives beside a model: arrays by name, and the metric that is computed with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from profiles.errors import RequestError
from profiles.storage import load_npz
from targets.graph import Graph, check_feeds
from targets.model import METRICS, metric_module

SYNTHETIC_ITEMS = 8


@dataclass
class Data:
    """A user's arrays, (n, ...) each: `inputs` by name, `targets` by name ("targets" if there is one)."""

    path: Path
    inputs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a split, as the generic glue wants them."""
        inputs = {f"inputs/{name}": value[indices] for name, value in self.inputs.items()}
        if list(self.targets) == ["targets"]:
            return {**inputs, "targets": self.targets["targets"][indices]}
        return {**inputs, **{f"targets/{name}": value[indices] for name, value in self.targets.items()}}


def load_data(path: Path) -> Data:
    """Read --data. Raises RequestError if it cannot be read, is empty, or its arrays have different lengths."""
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise RequestError(f"--data {path}: no .npy files in it: give one NAME.npy per input")
        arrays = {file.stem: _load_npy(file) for file in files}
    else:
        arrays = load_npz(path)
    inputs, targets = {}, {}
    for name, value in arrays.items():
        if value.ndim == 0:
            raise RequestError(f"--data {path}: {name} is a single number; give an array (items, ...)")
        if name == "targets" or name.startswith("targets/"):
            targets[name.removeprefix("targets/")] = value
        else:
            inputs[name.removeprefix("inputs/")] = value
    if not inputs:
        raise RequestError(f"--data {path}: there is no input in it: give one array per input of the model")
    lengths = {
        name: len(value) for name, value in {**inputs, **{f"targets/{k}": v for k, v in targets.items()}}.items()
    }
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise RequestError(f"--data {path}: arrays have different numbers of items ({shown})")
    if not next(iter(lengths.values())):
        raise RequestError(f"--data {path}: there are no items in it")
    return Data(path, inputs, targets)


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path}: not a readable .npy of plain numbers ({error})") from None


def check_metric(metric: str | None, data: Data | None, path: str | Path | None) -> None:
    if metric is not None and metric not in METRICS:
        metric_module(metric)
    if metric is not None and (data is None or not data.targets):
        where = f"--data {path} has none" if data is not None else "there is no --data"
        raise RequestError(f"--metric {metric} needs targets, but {where}: add an array 'targets' to the data")
    if metric is None and data is not None and data.targets:
        raise RequestError(
            f"--data {path} has targets, but there is no --metric: give {', '.join(METRICS)} or module:function"
        )


def matched(data: Data, graph: Graph) -> Data:
    """The data with its inputs named, ordered, typed and shaped as the graph takes them; else RequestError."""
    inputs = data.inputs
    if len(inputs) == 1 and len(graph.inputs) == 1:
        inputs = {graph.inputs[0].name: next(iter(inputs.values()))}
    return Data(data.path, check_feeds(graph, inputs, f"--data {data.path}"), data.targets)


def synthetic_inputs(graph: Graph, count: int = SYNTHETIC_ITEMS, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: standard normal floats; integers of 0 and 1, which every vocabulary has."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in graph.inputs:
        shape = (count, *spec.concrete()[1:])
        dtype = np.dtype(spec.dtype)
        values = rng.integers(0, 2, shape) if dtype.kind in "iub" else rng.standard_normal(shape)
        arrays[spec.name] = values.astype(dtype)
    return arrays
