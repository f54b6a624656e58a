"""Which operators of a `.tflite` file int8 hurts: as `targets.sensitivity`, but each is really quantised and run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from targets.bundle import Bundle
from targets.parity import compare
from targets.quantize import calibration_of
from targets.sensitivity import CLEAN_DB, RANGE_ROWS, Sensitivity, smallest
from targets.target import GraphSource
from targets.tflite.convert import float_model
from targets.tflite.flatbuffer import with_gathers
from targets.tflite.quantize import MOVES, exactly, quantized, static_int8, static_recipe, tensor_ranges
from targets.tflite.schema import read_model
from targets.tflite.session import run_file

ROWS = 8  # of the golden inputs, that errors are measured on


def find_sensitive(source: GraphSource, limit_db: float, timeout_s: float = 120.0) -> Sensitivity:
    """Rank the operators of a graph's float file, named by the tensors that they give, and find how many of the worst
    must stay float for `limit_db`. Operators that there is no time for come last.

    Raises RequestError if the graph has no calibration inputs.
    """
    start = time.monotonic()
    raw = with_gathers(float_model(source))
    feeds = {name: value[:RANGE_ROWS] for name, value in calibration_of(source).items()}
    rows = {name: value[:ROWS] for name, value in (source.golden or feeds).items()}
    names = [o.outputs[0].name for o in read_model(raw).operators if o.kind not in MOVES]
    reference = run_file(raw, source.graph, rows)

    def signal_db(file: bytes) -> float:
        found = compare(reference, run_file(file, source.graph, rows)).sqnr_db
        return CLEAN_DB if found is None else found

    all_db = signal_db(static_int8(raw, feeds))
    recipe = static_recipe()
    ranges = tensor_ranges(raw, recipe, feeds)
    alone: dict[str, float] = {}
    for name in names:
        if time.monotonic() - start > timeout_s:
            break
        alone[name] = signal_db(quantized(raw, _only(recipe, name), ranges))
    worst = [*sorted(alone, key=lambda name: alone[name]), *(name for name in names if name not in alone)]
    count, reached = smallest(len(worst), lambda k: signal_db(static_int8(raw, feeds, worst[:k])), limit_db, all_db)
    excluded = None if count is None else tuple(worst[:count])
    ranked = {name: alone.get(name, CLEAN_DB) for name in worst}
    return Sensitivity(ranked, all_db, excluded, reached, time.monotonic() - start)


def _only(recipe: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{**rule, "regex": exactly(name)} for rule in recipe]


def search(bundle: str, graph: str, limit_db: float, timeout_s: float) -> dict[str, Any]:
    """`find_sensitive` on a graph of a bundle; runs in the sandbox. Gives the Sensitivity as JSON."""
    return asdict(find_sensitive(Bundle.open(bundle).source(graph), limit_db, timeout_s))
