"""Target, Session: the protocols that a runtime implements, and their discovery by name.

A new runtime is one module in this package (or in a package named by an entry point of the group
"edge_compressor.targets") with a module-level object `target` that satisfies `Target`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from profiles.errors import RequestError
from targets.graph import Arrays, Graph

GROUP = "edge_compressor.targets"


class GraphError(RequestError):
    """This graph cannot be had on this runtime, found while compiling it. It fails its own artifact and not the whole
    run, as a wrong option would."""


@dataclass(frozen=True)
class GraphSource:
    """What a target compiles: one graph of a bundle and the files that hold it."""

    graph: Graph
    onnx: Path  # float32
    program: Path | None = None  # torch.export, for targets that start from torch
    # Input name -> (samples, ...). Calibration: real inputs for int8 ranges. Golden: what overflow is looked for on.
    calibration: Mapping[str, np.ndarray] | None = None
    golden: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class CompiledGraph:
    """What `Target.compile` made for one graph."""

    files: tuple[str, ...]  # relative to the directory it was told to write to; the first is what a session opens
    precision: str  # got, which may differ from what was asked for
    float_operators: Mapping[str, int] = field(default_factory=dict)  # operators that stayed float in an int8 file
    quantization: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    # The file exists, but is known to be wrong (e.g. it overflows in half precision); without files: why there are none
    # (e.g. operators that the runtime lacks, which only the conversion shows).
    problem: str | None = None
    deferred: str | None = None  # the rest can only be made on the device: why, and the command that does it there
    on_device: str | None = None  # the command that runs the files on the device, where this machine cannot
    # What the compiler counts or estimates of one inference: {"kind", "value", "source"} as in profiles.results.Cost.
    cost: Mapping[str, Any] | None = None
    # What the compiler knows of memory, in bytes, by the names of profiles.results.Memory (e.g. {"arena": 2328}).
    memory: Mapping[str, int] | None = None
    build: Mapping[str, Any] = field(default_factory=dict)  # what else the compiler said, for the manifest


class Session(Protocol):
    """An open compiled graph."""

    graph: Graph

    @property
    def details(self) -> Mapping[str, Any]:
        """What the runtime says it does: threads, provider, the precision that is executed."""
        ...

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run once. `feeds` has every input by name, with a leading batch axis. Returns every output by name."""
        ...


@runtime_checkable
class Target(Protocol):
    """One runtime. Importing its module imports no runtime: heavy imports live inside the methods.

    Two more members may be there: `cautious_options`, with which files are opened after a crash, and
    `not_runnable() -> str | None`, why this machine cannot run what is compiled (see the function of that name).
    """

    name: str
    precisions: tuple[str, ...]

    def version(self) -> str:
        """The runtime's version. Raises MissingError, naming the extra, if it is not installed."""
        ...

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        """Why this graph cannot be compiled at this precision, known beforehand; None if it can be tried."""
        ...

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        """Write the runtime's files for one graph into the existing directory `out`. Runs in the sandbox."""
        ...

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> Session:
        """Open compiled files. `options` are the device profile's for this runtime, e.g. {"threads": 2}."""
        ...


def not_runnable(target: Target) -> str | None:
    """Why nothing on this machine can run the target's files (no GPU, no NPU); None if they can be opened here."""
    ask = getattr(target, "not_runnable", None)
    return ask() if ask else None


def _discover() -> dict[str, str]:
    """Name of a runtime -> the module that has its `target`. Importing those modules imports no runtime."""
    found: dict[str, str] = {}
    packages = [point.value for point in entry_points(group=GROUP)]
    for package_name in dict.fromkeys(["targets", *packages]):
        package = importlib.import_module(package_name)
        if not hasattr(package, "__path__"):
            found.setdefault(package.target.name, package_name)
            continue
        for module in pkgutil.iter_modules(package.__path__):
            candidate = importlib.import_module(f"{package_name}.{module.name}")
            if isinstance(getattr(candidate, "target", None), Target):
                found.setdefault(candidate.target.name, candidate.__name__)
    return found


def list_targets() -> list[str]:
    """Names of all runtimes, installed on this machine or not."""
    return sorted(_discover())


def get_target(name: str) -> Target:
    """The runtime called `name`. Raises RequestError, with the nearest name, if there is none."""
    found = _discover()
    if name not in found:
        near = difflib.get_close_matches(name, found, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(found))}"
        raise RequestError(f"unknown runtime {name!r}: {hint}")
    return importlib.import_module(found[name]).target
