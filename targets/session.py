"""What sessions of all runtimes share: names and dtypes of feeds, fixed batches; and PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Arrays, Graph

MAX_BATCH = 64  # rows per call of a dynamic batch: bounds the memory of an evaluation


class GraphSession:
    """Base of sessions: subclasses implement `_run` for feeds that fit the graph.

    A dynamic batch is run in chunks of at most MAX_BATCH rows; a fixed batch of b in chunks of b, the last one padded
    by repeating its last row. `details` says what the runtime does (threads, provider, executed precision).
    """

    def __init__(self, graph: Graph, details: Mapping[str, Any]) -> None:
        self.graph = graph
        self.details: dict[str, Any] = dict(details)
        axes = {spec.shape[0] for spec in graph.inputs if spec.shape}
        fixed = [axis for axis in axes if isinstance(axis, int)]
        self._fixed = fixed[0] if fixed else None

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run once. Raises ValueError if an input is missing, or would lose values in the graph's dtype."""
        checked = {spec.name: _cast(feeds, spec.name, spec.dtype) for spec in self.graph.inputs}
        rows = len(next(iter(checked.values())))
        step = self._fixed or MAX_BATCH
        if rows == step or (self._fixed is None and rows <= step):
            return self._run(checked)
        parts = [self._chunk(checked, start, step, rows) for start in range(0, rows, step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _chunk(self, feeds: dict[str, np.ndarray], start: int, step: int, rows: int) -> dict[str, np.ndarray]:
        part = {name: value[start : start + step] for name, value in feeds.items()}
        count = min(step, rows - start)
        if self._fixed and count < step:
            part = {name: np.concatenate([v, np.repeat(v[-1:], step - count, axis=0)]) for name, v in part.items()}
        return {name: value[:count] for name, value in self._run(part).items()}

    def inference(self, feeds: Arrays) -> Callable[[], object]:
        """One inference on these feeds, to be called again and again; without copies in and out where a runtime can."""
        checked = {spec.name: _cast(feeds, spec.name, spec.dtype) for spec in self.graph.inputs}
        return lambda: self._run(checked)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise NotImplementedError


def _cast(feeds: Arrays, name: str, dtype: str) -> np.ndarray:
    if name not in feeds:
        raise ValueError(f"input {name!r} is missing; given: {', '.join(feeds) or 'none'}")
    value = np.asarray(feeds[name])
    if value.dtype != dtype:
        value = value.astype(dtype, casting="same_kind")
    return np.ascontiguousarray(value)


class ModuleSession(GraphSession):
    """A module or exported program in PyTorch, on the CPU: the float reference. Inputs go in by position."""

    def __init__(self, graph: Graph, module: Any) -> None:
        torch = require("torch", "train")
        super().__init__(graph, {"runtime": "torch", "precision": "fp32", "threads": torch.get_num_threads()})
        self._module = module

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch
        from torch.utils._pytree import tree_leaves

        with torch.no_grad():
            outputs = tree_leaves(self._module(*(torch.from_numpy(np.array(value)) for value in feeds.values())))
        return {spec.name: out.numpy() for spec, out in zip(self.graph.outputs, outputs, strict=True)}


def open_program(graph: Graph, program: Path) -> ModuleSession:
    """The exported program of a bundle, run by PyTorch. Raises RequestError if this torch cannot read it."""
    from targets.programs import load_program

    return ModuleSession(graph, load_program(program).module())
