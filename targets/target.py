"""Target, Session: the protocols that a runtime implements, and their discovery by name.

A new runtime is one module in this package (or in a package named by an entry point of the group
"edge_compressor.targets") with a module-level object `target` that satisfies `Target`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from targets.graph import Arrays, Graph


@dataclass(frozen=True)
class GraphSource:
    """What a target compiles: one graph of a bundle and the files that hold it."""

    graph: Graph
    onnx: Path  # float32
    program: Path | None = None  # torch.export, for targets that start from torch
    calibration: Mapping[str, np.ndarray] | None = None  # input name -> (samples, ...) real inputs; None: there are none


@dataclass(frozen=True)
class CompiledGraph:
    """What `Target.compile` made for one graph."""

    files: tuple[str, ...]  # relative to the directory it was told to write to; the first is what a session opens
    precision: str  # got, which may differ from what was asked for
    float_operators: Mapping[str, int] = field(default_factory=dict)  # operators that stayed float in an int8 file
    quantization: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Session(Protocol):
    """An open compiled graph."""

    graph: Graph

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run once. `feeds` has every input by name, with a leading batch axis. Returns every output by name."""
        ...


@runtime_checkable
class Target(Protocol):
    """One runtime. Importing its module imports no runtime: heavy imports live inside the methods."""

    name: str
    precisions: tuple[str, ...]

    def version(self) -> str:
        """The runtime's version. Raises MissingError, naming the extra, if it is not installed."""
        ...

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        """Why this graph cannot be compiled at this precision, known beforehand; None if it can be tried."""
        ...

    def compile(
        self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]
    ) -> CompiledGraph:
        """Write the runtime's files for one graph into the existing directory `out`. Runs in the sandbox."""
        ...

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> Session:
        """Open compiled files. `options` are the device profile's for this runtime, e.g. {"threads": 2}."""
        ...
