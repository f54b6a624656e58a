"""ONNX Runtime: fp32 as it is, fp16 by `targets.half`, int8 as static QDQ (per channel, min-max ranges)."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from profiles.errors import require
from targets.graph import Graph
from targets.quantize import (
    OPERATORS,
    calibration_of,
    check_options,
    choice,
    chunks,
    option,
    saturates,
    threads_of,
)
from targets.quiet import quiet
from targets.session import GraphSession
from targets.target import CompiledGraph, GraphSource

EXTRA = "onnx"
OPTIONS = ("threads", "optimization", "reduce_range", "activation_type", "quantize_operators", "provider", "spinning")
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
MIN_OPSET = 13  # per-channel DequantizeLinear

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
    quantize_operators (list of operator names)."""

    name = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    # Its last optimisation level has crashed on graphs that the one before runs (a float16 Conv3d with a GRU).
    cautious_options: ClassVar[Mapping[str, Any]] = {"optimization": "extended"}

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
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    feeds = calibration_of(source)
    reduce_range = option(options, "reduce_range", saturates(), bool)
    activations = choice(options, "activation_type", ("uint8", "int8"))
    operators = list(option(options, "quantize_operators", OPERATORS, (list, tuple)))
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = _prepare(source.onnx, Path(folder))
        quantize_static(
            str(prepared),
            str(out / "model.onnx"),
            _Reader(source.graph, feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=_sensitive(prepared),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type={"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}[activations],
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": activations == "int8",
                "WeightSymmetric": True,
                "MatMulConstBOnly": True,
            },
        )
    executed = executed_operators(out / "model.onnx", options)
    stayed_float = {name: count for name, count in executed.items() if not _is_quantized(name)}
    settings = {
        "method": "static QDQ, per channel, min-max",
        "tool": f"onnxruntime {ort.__version__}",
        "activations": activations,
        "weights": "int8 of 7 bits" if reduce_range else "int8",
        "samples": len(next(iter(feeds.values()))),
        "operators": operators,
        "quantized_operators": {name: count for name, count in executed.items() if _is_quantized(name)},
    }
    problem = None if settings["quantized_operators"] else "nothing could be quantised: every operator stayed float"
    return CompiledGraph(("model.onnx",), "int8", stayed_float, settings, problem=problem)


def _sensitive(path: Path) -> list[str]:
    """Names of nodes that stay float for accuracy: sums with a constant (the inside of a layer normalisation or of a
    hard swish) and products of two computed matrices (attention). Nodes without a name get one, in the file."""
    onnx = require("onnx", EXTRA)
    model = onnx.load(path)
    graph = model.graph
    for i, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    onnx.save(model, path)
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return [
        node.name
        for node in graph.node
        if (node.op_type == "Add" and constants & set(node.input))
        or (node.op_type == "MatMul" and not constants & set(node.input))
    ]


class _Reader:
    """onnxruntime's CalibrationDataReader over arrays."""

    def __init__(self, graph: Graph, feeds: Mapping[str, np.ndarray]) -> None:
        self._chunks = chunks(graph, feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._chunks, None)


def _prepare(path: Path, folder: Path) -> Path:
    """Raise an old opset, infer shapes, let the runtime fold constants and batch norms: what quantisation expects."""
    onnx = require("onnx", EXTRA)
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        model = require("onnx.version_converter", EXTRA).convert_version(model, MIN_OPSET)
        path = folder / "raised.onnx"
        onnx.save(model, path)
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    return prepared


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
