"""The ONNX file that an engine is built from, in the precision asked for, and proof of its arithmetic without a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Arrays, Graph
from targets.half_reference import reference_of_half
from targets.onnx_files import save_onnx
from targets.parity import compare, failure
from targets.qdq import write_qdq
from targets.target import GraphSource, get_target

# What TensorRT has int8 kernels for. Activations are symmetric: it takes no zero points.
OPERATORS = ("Conv", "Gemm", "MatMul")
QDQ_OPTIONS = {"DedicatedQDQPair": True, "QuantizeBias": False}


@dataclass(frozen=True)
class Typed:
    """An ONNX file whose tensor types are the precision. `float_operators`: by name, what stayed float32 in it."""

    float_operators: Mapping[str, int] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str | None = None


def write_typed(source: GraphSource, out: Path, precision: str, exclude: Sequence[str] = ()) -> Typed:
    """Write `out`/model.onnx (and its external weights) in fp32, fp16 or int8 (Q/DQ); in int8 the layers that give the
    tensors `exclude` stay float."""
    if precision == "fp32":
        from targets.onnx import copy_onnx

        copy_onnx(source.onnx, out)
        return Typed()
    if precision == "fp16":
        from targets.half import write_half

        stayed, clipped, problem = write_half(source, out / "model.onnx")
        notes = (f"{clipped} constants beyond float16 were clipped to 65504",) if clipped else ()
        return Typed(stayed, notes=notes, problem=problem)
    samples = write_qdq(source, out / "model.onnx", OPERATORS, "int8", exclude=exclude, extra_options=QDQ_OPTIONS)
    ort = require("onnxruntime", "onnx")
    settings = {
        "method": "static Q/DQ, symmetric, per channel, min-max",
        "tool": f"onnxruntime {ort.__version__}",
        "samples": samples,
        "operators": list(OPERATORS),
        "excluded_layers": list(exclude),
    }
    return Typed(quantization=settings)


def check_typed(source: GraphSource, path: Path, precision: str) -> dict[str, Any]:
    """What the typed file computes on the golden inputs: {"by", "parity", "failure"}; nothing if there are none.

    By ONNX Runtime on the CPU: fp32 and int8 as they stand, fp16 by `targets.half_reference`.
    """
    if not source.golden:
        return {"by": None, "parity": None, "failure": None}
    float_outputs = _run(source.graph, source.onnx, source.golden)
    by = "onnxruntime on the CPU"
    with tempfile.TemporaryDirectory() as folder:
        if precision == "fp16":
            by += ", every tensor rounded to float16"
            reference = reference_of_half(require("onnx", "onnx").load(path))
            path = Path(folder) / "reference.onnx"
            save_onnx(reference, path)
        outputs = _run(source.graph, path, source.golden)
    parity = compare(float_outputs, outputs)
    return {"by": by, "parity": parity.to_json(), "failure": failure(parity, precision)}


def _run(graph: Graph, path: Path, feeds: Arrays) -> dict[str, np.ndarray]:
    """As it stands: the runtime's own optimisations are off."""
    return dict(get_target("onnx").open(graph, (path,), "fp32", {"optimization": "none"})(feeds))
