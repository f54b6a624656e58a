"""A graph's exported program -> float32 `.tflite` of one row, by litert-torch. Runs where a crash is allowed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from profiles.errors import require
from targets.graph import Graph
from targets.quiet import silent
from targets.target import GraphSource
from targets.tflite.flatbuffer import named_as
from targets.tflite.scan import call_shapes

EXTRA = "tflite"


def float_model(source: GraphSource, forms: Collection[str] = ()) -> bytes:
    """The float32 file of a graph: one row, inputs and outputs by the graph's names and in its order.

    `forms`: names of TFLite operators that are to be avoided (`rules_integer.FORMS`).
    """
    shapes = call_shapes(source)
    if source.program is not None:
        from targets.programs import load_program

        return convert_module(load_program(source.program).module(), source.graph, shapes, forms)
    from targets.tflite.from_onnx import program_module

    return convert_module(program_module(source, shapes), source.graph, shapes, forms)


def convert_module(
    module: Any, graph: Graph, shapes: Mapping[str, Sequence[int]], forms: Collection[str] = ()
) -> bytes:
    """Convert the module of an exported program for inputs of these shapes, rewritten (`rewrite`)."""
    torch = require("torch", "train")
    from targets.tflite.rewrite import rewritten

    example = tuple(torch.zeros(shapes[spec.name], dtype=getattr(torch, spec.dtype)) for spec in graph.inputs)
    with silent():
        litert_torch = require("litert_torch", EXTRA)
        converted = litert_torch.convert(rewritten(module, forms), example)
        return named_as(graph, bytes(converted.model_content()))
