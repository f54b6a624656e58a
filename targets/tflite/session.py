"""A session of LiteRT (or of tflite-runtime, whose interpreter is the same, where LiteRT is not to be had)."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import MissingError, require
from targets.graph import Arrays, Graph, TensorSpec
from targets.quantize import threads_of
from targets.session import GraphSession
from targets.tflite.affine import dequantize, narrowed, quantize
from targets.tflite.schema import EXTRA


def interpreter_module() -> tuple[Any, str]:
    """(module, its package's name and version). Raises MissingError naming the extra if there is none."""
    try:
        return require("ai_edge_litert.interpreter", EXTRA), f"ai-edge-litert {version('ai-edge-litert')}"
    except MissingError as missing:
        try:
            return importlib.import_module("tflite_runtime.interpreter"), f"tflite-runtime {version('tflite-runtime')}"
        except ModuleNotFoundError:
            raise missing from None


class TFLiteSession(GraphSession):
    """An open `.tflite` file of a fixed number of rows. Feeds and outputs are as the graph has them; where the file has
    int8 inputs or outputs, they are quantised and dequantised here."""

    def __init__(self, graph: Graph, path: Path, options: Mapping[str, Any]) -> None:
        module, package = interpreter_module()
        threads = threads_of(options)
        self._interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self._rows = int(self._inputs[0]["shape"][0])
        delegated = any(entry["op_name"] == "DELEGATE" for entry in self._interpreter._get_ops_details())
        details = {
            "runtime": "tflite",
            "provider": "CPU (XNNPACK)" if delegated else "CPU (built-in kernels)",
            "package": package,
            "threads": threads,
            "output_steps": {
                spec.name: float(entry["quantization"][0])
                for spec, entry in zip(graph.outputs, self._outputs, strict=True)
            },
        }
        super().__init__(graph, details)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(next(iter(feeds.values())))
        parts = [
            self._invoke([value[start : start + self._rows] for value in feeds.values()])
            for start in range(0, count, self._rows)
        ]
        outputs = parts[0] if len(parts) == 1 else [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        return {spec.name: value for spec, value in zip(self.graph.outputs, outputs, strict=True)}

    def inference(self, feeds: Arrays) -> Callable[[], object]:
        self(feeds)
        return self._interpreter.invoke

    def _invoke(self, values: list[np.ndarray]) -> list[np.ndarray]:
        for entry, value in zip(self._inputs, values, strict=True):
            self._interpreter.set_tensor(entry["index"], _to_file(value, entry))
        self._interpreter.invoke()
        return [
            _from_file(self._interpreter.get_tensor(entry["index"]), entry, spec)
            for entry, spec in zip(self._outputs, self.graph.outputs, strict=True)
        ]


def run_file(raw: bytes, graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Open a file that is in memory, run it on some rows, and let it go."""
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(raw)
        file.flush()
        return TFLiteSession(graph, Path(file.name), {"threads": 1})(feeds)


def _to_file(value: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """An input as the file takes it."""
    scale, zero_point = entry["quantization"]
    if scale and np.issubdtype(value.dtype, np.floating):
        return quantize(value, scale, zero_point, entry["dtype"].__name__)
    value = narrowed(value)
    return value if value.dtype == entry["dtype"] else value.astype(entry["dtype"])


def _from_file(value: np.ndarray, entry: Mapping[str, Any], spec: TensorSpec) -> np.ndarray:
    """An output as the graph gives it."""
    scale, zero_point = entry["quantization"]
    if scale and np.issubdtype(np.dtype(spec.dtype), np.floating):
        value = dequantize(value, scale, zero_point)
    return value.astype(spec.dtype, copy=False)
