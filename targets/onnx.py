"""ONNX Runtime: fp32 as it is, fp16 by `targets.half`, int8 as static QDQ (per channel, min-max ranges)."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from profiles.errors import require
from targets.graph import Arrays, Graph
from targets.qdq import write_qdq
from targets.quantize import OPERATORS, WEIGHTED, check_options, choice, excluded_layers, option, saturates, threads_of
from targets.session import GraphSession
from targets.target import CompiledGraph, GraphSource

EXTRA = "onnx"
OPTIONS = (
    "threads", "optimization", "reduce_range", "activation_type", "quantize_operators", "exclude_layers", "provider",
    "spinning",
)  # fmt: skip
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}

# What moves or shapes data, or converts it: no arithmetic that could have stayed float.
# fmt: off
MOVES = frozenset((
    "Cast", "Concat", "Constant", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "MaxPool",
    "NhwcMaxPool", "Pad", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape", "Shape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
))
# fmt: on


class OnnxRuntime:
    """Target "onnx". Options: threads; optimization (none, basic, extended, all); provider; spinning (bool);
    for int8 reduce_range (bool; default: on where this processor would saturate), activation_type (uint8 or int8),
    quantize_operators (list of operator names), exclude_layers (list of tensor names)."""

    name = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    # Its last optimisation level has crashed on graphs that the one before runs (a float16 Conv3d with a GRU).
    cautious_options: ClassVar[Mapping[str, Any]] = {"optimization": "extended"}
    # What targets.sensitivity simulates.
    sensitivity: ClassVar[Mapping[str, Any]] = {"operators": (*WEIGHTED, "Add", "AveragePool", "GlobalAveragePool")}

    def version(self) -> str:
        return _runtime().__version__

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        if precision not in self.precisions:
            return f"ONNX Runtime has no precision {precision}: there are {', '.join(self.precisions)}"
        return None

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        check_options(options, OPTIONS, self.name)
        return {"fp32": _compile_fp32, "fp16": _compile_fp16, "int8": _compile_int8}[precision](source, out, options)

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> OnnxSession:
        check_options(options, OPTIONS, self.name)
        return OnnxSession(graph, files[0], options)


def _runtime() -> Any:
    ort = require("onnxruntime", EXTRA)
    ort.disable_telemetry_events()
    return ort


def _open(path: Path, options: Mapping[str, Any], optimized: Path | None = None) -> Any:
    ort = _runtime()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors arrive as exceptions
    settings.intra_op_num_threads = threads_of(options)
    settings.inter_op_num_threads = 1
    level = choice(options, "optimization", list(LEVELS))
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    if not option(options, "spinning", True, bool):
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized is not None:
        settings.optimized_model_filepath = str(optimized)
    provider = option(options, "provider", "CPUExecutionProvider", str)
    session = ort.InferenceSession(str(path), sess_options=settings, providers=[provider])
    if session.get_providers()[0] != provider:  # a GPU package falls back to the CPU without a word
        raise RuntimeError(f"ONNX Runtime runs on {session.get_providers()[0]}, not on {provider} as asked")
    return session


class OnnxSession(GraphSession):
    """An open ONNX file."""

    def __init__(self, graph: Graph, path: Path, options: Mapping[str, Any]) -> None:
        self._session = _open(path, options)
        self._names = [spec.name for spec in graph.outputs]
        details = {
            "runtime": "onnx",
            "provider": self._session.get_providers()[0],
            "threads": threads_of(options),
            "optimization": options.get("optimization", "all"),
        }
        super().__init__(graph, details)

    def inference(self, feeds: Arrays) -> Callable[[], object]:
        binding = self._session.io_binding()
        for spec in self.graph.inputs:
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(feeds[spec.name], spec.dtype))
        for name in self._names:
            binding.bind_output(name)
        return lambda: self._session.run_with_iobinding(binding)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))


def copy_onnx(source: Path, out: Path) -> tuple[str, ...]:
    """Copy an ONNX file and its external weights into `out`; the first name is the model's."""
    from targets.onnx_files import external_files, load_onnx

    names = ["model.onnx"]
    shutil.copyfile(source, out / "model.onnx")
    for extra in sorted(external_files(load_onnx(source, weights=False))):
        (out / extra).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / extra, out / extra)
        names.append(extra)
    return tuple(names)


def _compile_fp32(source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    return CompiledGraph(copy_onnx(source.onnx, out), "fp32")


def _compile_fp16(source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    from targets.half import write_half

    stayed_float, clipped, problem = write_half(source, out / "model.onnx")
    notes = ["tensors are float16, inputs and outputs float32; the CPU provider computes most operators in float32"]
    if clipped:
        notes.append(f"{clipped} constants beyond float16 were clipped to 65504")
    files = tuple(path.name for path in sorted(out.iterdir(), key=lambda path: path.suffix != ".onnx"))
    return CompiledGraph(files, "fp16", float_operators=stayed_float, notes=tuple(notes), problem=problem)


def _compile_int8(source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    ort = _runtime()
    reduce_range = option(options, "reduce_range", saturates(), bool)
    activations = choice(options, "activation_type", ("uint8", "int8"))
    operators = list(option(options, "quantize_operators", OPERATORS, (list, tuple)))
    exclude = excluded_layers(options)
    samples = write_qdq(source, out / "model.onnx", operators, activations, exclude=exclude, reduce_range=reduce_range)
    executed = executed_operators(out / "model.onnx", options)
    stayed_float = {name: count for name, count in executed.items() if not _is_quantized(name)}
    settings = {
        "method": "static QDQ, per channel, min-max",
        "tool": f"onnxruntime {ort.__version__}",
        "activations": activations,
        "weights": "int8 of 7 bits" if reduce_range else "int8",
        "samples": samples,
        "operators": operators,
        "excluded_layers": exclude,
        "quantized_operators": {name: count for name, count in executed.items() if _is_quantized(name)},
    }
    problem = None if settings["quantized_operators"] else "nothing could be quantised: every operator stayed float"
    return CompiledGraph(("model.onnx",), "int8", stayed_float, settings, problem=problem)


def executed_operators(path: Path, options: Mapping[str, Any]) -> Counter[str]:
    """What ONNX Runtime executes after its optimisations, by operator and count, without pure data movement."""
    onnx = require("onnx", EXTRA)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _open(path, options, optimized)
        graph = onnx.load(optimized).graph
    return Counter(node.op_type for node in graph.node if node.op_type not in MOVES)


def _is_quantized(operator: str) -> bool:
    return operator.startswith(("QLinear", "QGemm", "QAttention")) or operator.endswith(("Integer", "IntegerToFloat"))


target = OnnxRuntime()
