"""TFLite: PyTorch or ONNX to `.tflite` (litert-torch), int8 and float16 by ai-edge-quantizer, run by LiteRT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from targets.graph import Graph
from targets.quantize import check_options
from targets.target import CompiledGraph, GraphSource

if TYPE_CHECKING:
    from targets.tflite.session import TFLiteSession

OPTIONS = ("threads", "quantization", "exclude_layers")


class TFLite:
    """Target "tflite". Options: threads; for int8 quantization: full (int8 inputs, outputs and arithmetic) or dynamic
    (int8 weights, activations quantised as the file runs); exclude_layers (list of the file's tensor names)."""

    name = "tflite"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    sensitivity: ClassVar[Mapping[str, Any]] = {"function": "targets.tflite.sensitivity:search"}

    def version(self) -> str:
        from targets.tflite.session import interpreter_module

        return interpreter_module()[1].split(" ")[-1]

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        if precision not in self.precisions:
            return f"TFLite has no precision {precision}: there are {', '.join(self.precisions)}"
        return unsupported(source)

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        check_options(options, OPTIONS, self.name)
        from targets.tflite import compile as steps

        step = {"fp32": steps.compile_float, "fp16": steps.compile_half, "int8": steps.compile_quantized}[precision]
        return step(source, out, options)

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> TFLiteSession:
        check_options(options, OPTIONS, self.name)
        from targets.tflite.session import TFLiteSession

        return TFLiteSession(graph, files[0], options)


def unsupported(source: GraphSource) -> str | None:
    """Why a graph cannot become a `.tflite` file, as far as that is known without converting it; None if it may."""
    from targets.tflite.scan import reason

    return reason(source)


def compile_int8(source: GraphSource, out: Path, options: Mapping[str, Any] | None = None) -> CompiledGraph:
    """Write the full-integer `model.tflite` of a graph into `out`: batch 1, int8 inputs and outputs, every buffer
    inlined, no float operator. What the targets for microcontrollers start from; `options` are theirs and not read.

    Raises RequestError if there is no calibration data, or an operator could not be quantised (it is named).
    """
    from targets.tflite.compile import compile_integer

    return compile_integer(source, out)


target = TFLite()
