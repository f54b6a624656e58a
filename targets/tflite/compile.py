"""One graph -> one `.tflite` file, at each precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from targets.half import half_problem
from targets.quantize import calibration_of, choice, excluded_layers
from targets.target import CompiledGraph, GraphError, GraphSource
from targets.tflite import quantize
from targets.tflite.convert import float_model
from targets.tflite.flatbuffer import with_gathers
from targets.tflite.rules_integer import FORMS
from targets.tflite.schema import Model, read_model

FILE = "model.tflite"
GELU_NOTE = "GELU is not in TFLite-Micro: microcontrollers need ReLU in its place"


def compile_float(source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    (out / FILE).write_bytes(float_model(source))
    return CompiledGraph((FILE,), "fp32")


def compile_half(source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    (out / FILE).write_bytes(quantize.half_weights(float_model(source)))
    notes = ("weights are float16; the CPU kernels compute in float32",)
    return CompiledGraph((FILE,), "fp16", notes=notes, problem=half_problem(source))


def compile_quantized(source: GraphSource, out: Path, options: Mapping[str, Any]) -> CompiledGraph:
    """int8 by the option `quantization`: "full" (int8 inputs, outputs and arithmetic) or "dynamic" (int8 weights)."""
    feeds = calibration_of(source)
    kind = choice(options, "quantization", ("full", "dynamic"))
    exclude = excluded_layers(options)
    raw = integer_file(source, feeds, exclude) if kind == "full" else quantize.dynamic_int8(float_model(source))
    (out / FILE).write_bytes(raw)
    model = read_model(raw)
    stayed = Counter(operator.kind for operator in quantize.float_operators(model))
    quantized = quantize.quantized_operators(model)
    settings: dict[str, Any] = {
        "method": {
            "full": "post-training full integer, weights per channel, activations min-max",
            "dynamic": "dynamic range: int8 weights per channel, activations quantised as it runs",
        }[kind],
        "tool": f"ai-edge-quantizer {version('ai-edge-quantizer')}",
        "samples": len(next(iter(feeds.values()))) if kind == "full" else 0,
        "excluded_layers": exclude,
        "operators": dict(model.operator_counts()),
        "quantized_operators": quantized,
    }
    problem = None if quantized or not stayed else "nothing could be quantised: every operator stayed float"
    return CompiledGraph((FILE,), "int8", dict(stayed), settings, _notes(model), problem)


def compile_integer(source: GraphSource, out: Path) -> CompiledGraph:
    """As `compile_quantized` in full, for a machine without float arithmetic.

    Raises GraphError naming the operators that could not be quantised.
    """
    compiled = compile_quantized(source, out, {})
    model = read_model(out / FILE)
    stayed = quantize.float_operators(model) or [o for o in model.operators if quantize.computes_in_float(o)]
    if stayed:
        places = ", ".join(operator.place for operator in stayed[:3]) + (", ..." if len(stayed) > 3 else "")
        raise GraphError(
            f"graph {source.graph.name}: full int8 needs integer operators only, but {len(stayed)} stayed float:"
            f" {places}: replace them, or compute them on the host"
        )
    return compiled


def integer_file(source: GraphSource, feeds: Mapping[str, np.ndarray], exclude: Sequence[str] = ()) -> bytes:
    """The full-integer file, but for the layers that give the tensors `exclude`. Other operators that stayed float, and
    for which there is another form of the same numbers, are avoided in a second conversion."""
    forms: set[str] = set()
    while True:
        raw = quantize.static_int8(with_gathers(float_model(source, forms)), feeds, exclude)
        stayed = [o for o in quantize.float_operators(read_model(raw)) if o.outputs[0].name not in exclude]
        avoidable = {operator.kind for operator in stayed} & set(FORMS) - forms
        if not avoidable:
            return raw
        forms |= avoidable


def _notes(model: Model) -> tuple[str, ...]:
    return (GELU_NOTE,) if "GELU" in model.operator_counts() else ()
