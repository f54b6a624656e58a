"""A graph's exported program -> float32 `.tflite` of one row, by litert-torch. Runs where a crash is allowed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator
from typing import Any

from profiles.errors import require
from targets.graph import Graph
from targets.quiet import quiet
from targets.target import GraphSource
from targets.tflite.flatbuffer import named_as

EXTRA = "tflite"


def float_model(source: GraphSource, forms: Collection[str] = ()) -> bytes:
    """The float32 file of a graph: batch 1, inputs and outputs by the graph's names and in its order.

    `forms`: names of TFLite operators that are to be avoided (`rules_integer.FORMS`).
    """
    return convert_graph_module(graph_module(source), source.graph, forms)


def graph_module(source: GraphSource) -> Any:
    """The graph as the module of an exported program."""
    from targets.programs import load_program

    assert source.program is not None
    return load_program(source.program).module()


def example_row(graph: Graph) -> tuple[Any, ...]:
    """One row of zeros (ones where the dtype is an integer, which may be ids or lengths) per input."""
    torch = require("torch", "train")
    return tuple(torch.zeros(spec.concrete(batch=1), dtype=getattr(torch, spec.dtype)) for spec in graph.inputs)


def convert_graph_module(module: Any, graph: Graph, forms: Collection[str] = ()) -> bytes:
    """Convert the module of an exported program for one row of the graph's inputs, rewritten (`rewrite`)."""
    from targets.tflite.rewrite import rewritten

    with _silent():
        litert_torch = require("litert_torch", EXTRA)
        converted = litert_torch.convert(rewritten(module, forms), example_row(graph))
        return named_as(graph, bytes(converted.model_content()))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """litert-torch reports progress on both streams."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield
