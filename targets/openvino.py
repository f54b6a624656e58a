"""OpenVINO on the CPU: fp32, fp16 (weights), int8 by NNCF. The executed precision is set and recorded."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from profiles.errors import require
from targets.graph import Graph
from targets.half import half_problem
from targets.quantize import (
    ARITHMETIC,
    WEIGHTED,
    calibration_of,
    check_options,
    choice,
    chunks,
    excluded_layers,
    option,
    saturates,
    threads_of,
)
from targets.quiet import quiet
from targets.session import GraphSession
from targets.target import CompiledGraph, GraphSource

EXTRA = "openvino"
OPTIONS = ("threads", "device", "preset", "fast_bias_correction", "reduce_range", "exclude_layers")
PLUGIN_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

# Operations whose bias is a sum behind them.
PRODUCTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")

# Recurrent operations stay float, as ONNX Runtime leaves them: NNCF's quantisation of a trained LSTM left noise only.
RECURRENT = ("GRUCell", "GRUSequence", "LSTMCell", "LSTMSequence", "RNNCell", "RNNSequence")

# Layers of the executed graph that move, shape or convert data, or hold constants: no arithmetic.
# fmt: off
MOVES = frozenset((
    "Broadcast", "Concatenation", "Const", "Convert", "FakeQuantize", "Gather", "Input", "Output", "Pad", "Pooling",
    "Reorder", "Reshape", "Result", "ShapeOf", "Split", "Squeeze", "StridedSlice", "Tile", "Transpose", "Unsqueeze",
))
# fmt: on


class OpenVino:
    """Target "openvino". Options: threads; device (CPU); for int8 preset (performance or mixed),
    fast_bias_correction (bool), reduce_range (bool; default: on where this processor would saturate), exclude_layers
    (list of tensor names)."""

    name = "openvino"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    sensitivity: ClassVar[Mapping[str, Any]] = {"operators": (*WEIGHTED, *ARITHMETIC)}  # what NNCF quantises

    def version(self) -> str:
        return _openvino().get_version().split("-")[0]

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        if precision not in self.precisions:
            return f"OpenVINO has no precision {precision}: there are {', '.join(self.precisions)}"
        return None

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        check_options(options, OPTIONS, self.name)
        ov = _openvino()
        with quiet():
            model = ov.convert_model(source.onnx)
        _name_outputs(model, source.graph)
        if precision == "int8":
            return _compile_int8(model, source, out, options)
        ov.save_model(model, out / "model.xml", compress_to_fp16=precision == "fp16")
        if precision == "fp32":
            return CompiledGraph(("model.xml", "model.bin"), "fp32")
        executed = _execution_precision(ov.Core(), "fp16", options)
        notes = (f"weights are float16; this processor computes in {'float16' if executed == 'f16' else 'float32'}",)
        return CompiledGraph(("model.xml", "model.bin"), "fp16", notes=notes, problem=half_problem(source))

    def open(
        self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]
    ) -> OpenVinoSession:
        check_options(options, OPTIONS, self.name)
        return OpenVinoSession(graph, files[0], precision, options)


def _openvino() -> Any:
    # OpenVINO and NNCF report usage unless this optional package is missing; both have a stub for that case.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", EXTRA)


def _name_outputs(model: Any, graph: Graph) -> None:
    """Make sure that every input and output of the graph is found by its name."""
    names = {name for port in (*model.inputs, *model.outputs) for name in port.get_names()}
    missing = [spec.name for spec in (*graph.inputs, *graph.outputs) if spec.name not in names]
    if missing:
        raise RuntimeError(f"OpenVINO lost the tensor name {missing[0]!r} while converting")


def _execution_precision(core: Any, precision: str, options: Mapping[str, Any]) -> str:
    """The plugin's name of the float precision to compute in: f16 only where asked and supported, else f32.

    Left alone, the CPU plugin computes float models in bf16 on processors that have it (and also when f16 is hinted).
    """
    device = option(options, "device", "CPU", str)
    return "f16" if precision == "fp16" and "FP16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES") else "f32"


def _compiled(core: Any, model: Any, precision: str, options: Mapping[str, Any]) -> Any:
    device = option(options, "device", "CPU", str)
    hint = _execution_precision(core, precision, options)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(threads_of(options))
        settings["NUM_STREAMS"] = "1"
    compiled = core.compile_model(model, device, settings)
    executed = PLUGIN_NAMES.get(compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype().name)
    if executed != hint:
        raise RuntimeError(f"OpenVINO computes in {executed}, not in {hint} as asked")
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    if not devices[0].startswith(device):
        raise RuntimeError(f"OpenVINO runs on {devices[0]}, not on {device} as asked")
    return compiled


class OpenVinoSession(GraphSession):
    """An open OpenVINO file. A dynamic batch is compiled twice: for one row (the latency path) when it is opened, and
    for any number of rows when that is first asked for."""

    def __init__(self, graph: Graph, path: Path, precision: str, options: Mapping[str, Any]) -> None:
        ov = _openvino()
        self._core, self._precision, self._options = ov.Core(), precision, dict(options)
        model = self._core.read_model(path)
        self._model = model.clone()  # shares the weights; the file may be gone when many rows are first asked for
        self._dynamic = any(isinstance(axis, str) for spec in graph.inputs for axis in spec.shape[:1])
        if self._dynamic:
            model.reshape(
                {
                    spec.name: ov.PartialShape([1, *(_dimension(axis) for axis in spec.shape[1:])])
                    for spec in graph.inputs
                }
            )
        compiled = _compiled(self._core, model, precision, self._options)
        self._single, self._many = compiled.create_infer_request(), None
        self._ports = {spec.name: compiled.output(spec.name) for spec in graph.outputs}
        details = {
            "runtime": "openvino",
            "provider": compiled.get_property("EXECUTION_DEVICES")[0],
            "threads": threads_of(options),
            "executed_float": compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype().name,
        }
        super().__init__(graph, details)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        request = self._single
        if self._dynamic and len(next(iter(feeds.values()))) != 1:
            if self._many is None:
                self._many = _compiled(self._core, self._model, self._precision, self._options).create_infer_request()
            request = self._many
        request.infer(feeds, share_inputs=True)
        return {spec.name: np.array(request.get_tensor(spec.name).data) for spec in self.graph.outputs}


def _dimension(axis: int | str) -> int:
    return axis if isinstance(axis, int) else -1


def _compile_int8(model: Any, source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    ov, nncf = _openvino(), require("nncf", EXTRA)
    feeds = calibration_of(source)
    preset = choice(options, "preset", ("mixed", "performance"))
    items = list(chunks(source.graph, feeds, step=1))
    exclude = excluded_layers(options)
    reduced = option(options, "reduce_range", saturates(), bool)
    # NNCF's default averages the ranges of the samples, which clips.
    ranges = require("nncf.quantization.range_estimator", EXTRA).RangeEstimatorParametersSet.MINMAX
    with quiet():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(items),
            preset=nncf.QuantizationPreset(preset),
            subset_size=len(items),
            fast_bias_correction=option(options, "fast_bias_correction", True, bool),
            ignored_scope=_ignored(nncf, model, exclude),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges,
                # weights of 7 bits where this processor would add products in 16 bits and saturate
                overflow_fix=nncf.OverflowFix.ENABLE if reduced else nncf.OverflowFix.DISABLE,
            ),
        )
    ov.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    executed = executed_layers(quantized, options)
    stayed_float = {layer: count for (layer, kind), count in executed.items() if kind not in ("i8", "u8")}
    settings = {
        "method": f"NNCF post-training, preset {preset}, min-max",
        "tool": f"nncf {nncf.__version__}",
        "samples": len(items),
        "weights": "int8 of 7 bits" if reduced else "int8",
        "excluded_layers": exclude,
        "quantized_operators": {layer: count for (layer, kind), count in executed.items() if kind in ("i8", "u8")},
    }
    problem = None if settings["quantized_operators"] else "nothing could be quantised: every operator stayed float"
    return CompiledGraph(("model.xml", "model.bin"), "int8", stayed_float, settings, problem=problem)


def _ignored(nncf: Any, model: Any, layers: Sequence[str]) -> Any:
    """The operations that give the tensors `layers`, and the product in front of each sum that is its bias; and what
    is recurrent."""
    names = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in RECURRENT:
            names.append(operation.get_friendly_name())
        if any(set(layers) & set(port.get_names()) for port in operation.outputs()):
            names.append(operation.get_friendly_name())
            if operation.get_type_name() == "Add":
                before = operation.input_value(0).get_node()
                names += [before.get_friendly_name()] if before.get_type_name() in PRODUCTS else []
    return nncf.IgnoredScope(names=names) if names else None


def executed_layers(model: Any, options: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """What OpenVINO executes, by (layer, precision it runs in) and count, without pure data movement."""
    compiled = _compiled(_openvino().Core(), model, "int8", options)
    layers: Counter[tuple[str, str]] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        layer, precision = (info[key].astype(str) for key in ("layerType", "runtimePrecision"))
        if layer not in MOVES:
            layers[layer, precision] += 1
    return layers


target = OpenVino()
