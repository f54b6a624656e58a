"""The ONNX file that an engine is built from, in the precision asked for, and proof of its arithmetic without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Arrays, Graph
from targets.parity import compare, failure
from targets.qdq import write_qdq
from targets.target import GraphSource

# What TensorRT has int8 kernels for. Activations are symmetric: it takes no zero points.
OPERATORS = ("Conv", "Gemm", "MatMul")
QDQ_OPTIONS = {"DedicatedQDQPair": True, "QuantizeBias": False}
REFERENCE_ROWS = 2  # onnx.reference computes in numpy, operator by operator


@dataclass(frozen=True)
class Typed:
    """An ONNX file whose tensor types are the precision. `float_operators`: by name, what stayed float32 in it."""

    float_operators: Mapping[str, int] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str | None = None


def write_typed(source: GraphSource, out: Path, precision: str) -> Typed:
    """Write `out`/model.onnx (and its external weights) in fp32, fp16 or int8 (Q/DQ)."""
    if precision == "fp32":
        from targets.onnx import copy_onnx

        copy_onnx(source.onnx, out)
        return Typed()
    if precision == "fp16":
        from targets.half import write_half

        stayed, clipped, problem = write_half(source, out / "model.onnx")
        notes = (f"{clipped} constants beyond float16 were clipped to 65504",) if clipped else ()
        return Typed(stayed, notes=notes, problem=problem)
    samples = write_qdq(source, out / "model.onnx", OPERATORS, "int8", extra_options=QDQ_OPTIONS)
    ort = require("onnxruntime", "onnx")
    settings = {
        "method": "static Q/DQ, symmetric, per channel, min-max",
        "tool": f"onnxruntime {ort.__version__}",
        "samples": samples,
        "operators": list(OPERATORS),
    }
    return Typed(quantization=settings)


def check_typed(source: GraphSource, onnx: Path, precision: str) -> dict[str, Any]:
    """What the typed file computes on the golden inputs: {"by", "parity", "failure"}; by None if there are none.

    fp16 is evaluated by onnx.reference, which rounds every tensor to float16 (a CPU runtime would compute in float32
    and hide it); fp32 and int8 by ONNX Runtime, int8 with its Q/DQ pairs as they stand.
    """
    if not source.golden:
        return {"by": None, "parity": None, "failure": None}
    float_outputs = _run(source.graph, source.onnx, source.golden)
    if precision == "fp16":
        feeds = {name: value[:REFERENCE_ROWS] for name, value in source.golden.items()}
        outputs, by = _reference(onnx, feeds), "onnx.reference"
        float_outputs = {name: value[:REFERENCE_ROWS] for name, value in float_outputs.items()}
    else:
        outputs, by = _run(source.graph, onnx, source.golden), "onnxruntime on the CPU"
    parity = compare(float_outputs, outputs)
    return {"by": by, "parity": parity.to_json(), "failure": failure(parity, precision)}


def _run(graph: Graph, path: Path, feeds: Arrays) -> dict[str, np.ndarray]:
    from targets.target import get_target

    return dict(get_target("onnx").open(graph, (path,), "fp32", {"optimization": "none"})(feeds))


def _reference(path: Path, feeds: Arrays) -> dict[str, np.ndarray]:
    require("onnx", "onnx")
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))
