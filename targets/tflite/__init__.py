"""TFLite: PyTorch or ONNX to `.tflite` (litert-torch), int8 by ai-edge-quantizer, run by LiteRT."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.errors import RequestError
from targets.quantize import calibration_of
from targets.target import CompiledGraph, GraphSource


def compile_int8(source: GraphSource, out: Path, options: Mapping[str, Any] | None = None) -> CompiledGraph:
    """Write the full-integer `model.tflite` of a graph into `out`: batch 1, int8 inputs and outputs, every buffer
    inlined, no float operator. What the targets for microcontrollers start from; `options` are theirs and not read.

    Raises RequestError if there is no calibration data, or an operator could not be quantised (it is named).
    """
    from targets.tflite.convert import float_model
    from targets.tflite.quantize import full_int8
    from targets.tflite.schema import FLOATS, read_model

    feeds = calibration_of(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        path.write_bytes(float_model(source))
        samples = full_int8(path, feeds, out / "model.tflite")
    model = read_model(out / "model.tflite")
    stayed = [
        operator.place
        for operator in model.operators
        if any(t is not None and not t.is_constant and t.dtype in FLOATS for t in operator.inputs + operator.outputs)
    ]
    if stayed:
        raise RequestError(
            f"graph {source.graph.name}: full int8 needs integer operators only, but {len(stayed)} stayed float:"
            f" {', '.join(stayed[:3])}"
        )
    return CompiledGraph(("model.tflite",), "int8", {}, {"samples": samples})
