"""Calibration data and precision policy that the runtimes share."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from targets.graph import Graph
from targets.target import GraphSource

CALIBRATION_CHUNK = 32

# ONNX operators with weights, and those between them that some runtimes quantise as well.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ARITHMETIC = ("Add", "AveragePool", "GlobalAveragePool", "Mul", "ReduceMean", "Sub")

# What is quantised unless the device profile's option `quantize_operators` says otherwise: layers with weights, and the
# operators between them that would else force a way back to float. Softmax, normalisations, divisions and products of
# two computed tensors stay float: their ranges are wide and their cost is small. Relu and Clip are here so that a
# layer's range is taken behind them: half of the range before is negative, and that half of the steps would be lost.
OPERATORS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "GlobalAveragePool",
    "MaxPool",
    "Pad",
    "Relu",
    "Resize",
)


def calibration_of(source: GraphSource) -> Mapping[str, np.ndarray]:
    """The calibration inputs of a graph. Raises RequestError if it has none: int8 ranges are never guessed."""
    if not source.calibration:
        raise RequestError(
            f"graph {source.graph.name}: int8 needs real inputs: give --data, or calibration in the bundle"
        )
    return source.calibration


def chunks(
    graph: Graph, feeds: Mapping[str, np.ndarray], limit: int | None = None, step: int = CALIBRATION_CHUNK
) -> Iterator[dict[str, np.ndarray]]:
    """The first `limit` rows in pieces of `step`, or of what the graph's batch is fixed to (a rest is left out)."""
    fixed = [spec.shape[0] for spec in graph.inputs if isinstance(spec.shape[0], int)]
    step = int(fixed[0]) if fixed else step
    rows = min(len(next(iter(feeds.values()))), limit or np.iinfo(np.int64).max)
    for start in range(0, rows - (rows % step if fixed else 0), step):
        yield {name: np.ascontiguousarray(value[start : min(start + step, rows)]) for name, value in feeds.items()}


def saturates() -> bool:
    """Whether this processor adds pairs of int8 products in 16 bits (x86 without VNNI), which overflows silently.

    Then weights get 7 bits (`reduce_range`). Elsewhere, and where it cannot be known, they get 8.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "vnni" not in flags


def option(options: Mapping[str, Any], name: str, default: Any, allowed: type | tuple[type, ...]) -> Any:
    """A runtime option of the device profile, checked. Raises RequestError if it has another type."""
    value = options.get(name, default)
    if not isinstance(value, allowed) or (isinstance(value, bool) and allowed is int):
        raise RequestError(f"runtime option {name}: {value!r} is not of type {getattr(allowed, '__name__', allowed)}")
    return value


def choice(options: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str:
    """A runtime option that is one of a few words, the first by default. Raises RequestError if it is another."""
    value = option(options, name, allowed[0], str)
    if value not in allowed:
        raise RequestError(f"runtime option {name}: {value!r} is not one of {', '.join(allowed)}")
    return value


def excluded_layers(options: Mapping[str, Any]) -> list[str]:
    """The option `exclude_layers`: layers that stay float in int8, by the names of the tensors that they give."""
    names = option(options, "exclude_layers", (), (list, tuple))
    if not all(isinstance(name, str) for name in names):
        raise RequestError(f"runtime option exclude_layers: {names!r} is not a list of tensor names")
    return list(names)


def check_options(options: Mapping[str, Any], known: tuple[str, ...], runtime: str) -> None:
    """Raises RequestError naming the first option that the runtime does not know."""
    for name in options:
        if name not in known:
            raise RequestError(f"runtime {runtime}: unknown option {name!r}: there are {', '.join(known)}")


def threads_of(options: Mapping[str, Any]) -> int:
    """The option `threads`, or as many as this process may use."""
    import os

    default = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = option(options, "threads", default, int)
    if threads < 1:
        raise RequestError(f"runtime option threads: {threads} is below 1")
    return threads
