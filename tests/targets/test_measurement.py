"""What a measurement says of cost and memory, per graph and of the whole student."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.results import Cost, Memory, RanOn
from targets.measurement import Measurement, cost_per_query, memory_together

PARITY = {"max_abs": 0.1, "worst": 0.1, "cosine_min": 0.999, "sqnr_db": 30.0, "agreement": 1.0, "n": 8, "finite": True}


def graph(instructions: float | None, **memory: int) -> dict[str, Any]:
    cost = {"kind": "instructions", "value": instructions, "source": "counted"} if instructions else None
    return {"parity": PARITY, "failure": None, "latency": None, "cost": cost, "memory": memory or None}


def measurement(graphs: dict[str, Any], calls: dict[str, float], kind: str = "emulator") -> Measurement:
    report = {"graphs": graphs, "query": {"calls": calls, "latency": None}, "metrics": {}, "peak_bytes": 900}
    return Measurement(report, {}, dict.fromkeys(graphs, 800), RanOn(kind=kind, name="x"), "real")  # type: ignore[arg-type]


def test_the_cost_of_a_query_is_weighted_by_calls_and_memory_is_what_lies_side_by_side() -> None:
    found = measurement(
        {
            "step": graph(1000.0, arena=100, flash=5000, ram=120, stack=64),
            "head": graph(300.0, arena=40, flash=2000, ram=50, stack=96),
        },
        {"step": 24.0, "head": 0.5},
    )
    assert found.cost("step") == Cost(kind="instructions", value=1000, source="counted")
    assert found.cost() == Cost(kind="instructions", value=24 * 1000 + 0.5 * 300, source="counted")
    assert found.memory("head") == Memory(arena=40, flash=2000, ram=50, stack=96)
    assert found.memory() == Memory(arena=140, flash=7000, ram=170, stack=96)


def test_what_was_not_measured_is_none_and_never_nothing() -> None:
    found = measurement({"a": graph(1000.0, flash=10), "b": graph(None)}, {"a": 1.0, "b": 1.0})
    assert found.cost() is None and found.cost("b") is None
    assert found.memory() == Memory() and found.memory("b") == Memory()
    unused = measurement({"a": graph(1000.0), "b": graph(None)}, {"a": 2.0, "b": 0.0})
    assert unused.cost() == Cost(kind="instructions", value=2000, source="counted")


def test_the_resident_memory_of_an_emulator_is_not_the_devices() -> None:
    graphs = {"a": graph(None)}
    assert measurement(graphs, {}).memory("a").peak is None and measurement(graphs, {}).peak_bytes is None
    here = measurement(graphs, {}, kind="host")
    assert here.memory("a").peak == 800 and here.memory().peak == here.peak_bytes == 900


def test_costs_of_two_kinds_have_no_sum_and_one_estimate_makes_an_estimate() -> None:
    counted = Cost(kind="instructions", value=10, source="counted")
    guessed = Cost(kind="instructions", value=5, source="estimated")
    cycles = Cost(kind="npu_cycles", value=5, source="estimated")
    calls = {"a": 1.0, "b": 2.0}
    assert cost_per_query({"a": counted, "b": cycles}, calls) is None
    assert cost_per_query({"a": counted, "b": guessed}, calls) == Cost(
        kind="instructions", value=20, source="estimated"
    )
    assert cost_per_query({}, {}) is None
    assert memory_together({}) == Memory()


@pytest.mark.parametrize("name", ["arena", "flash", "ram", "stack"])
def test_memory_is_known_only_if_every_graphs_is(name: str) -> None:
    together = memory_together({"a": Memory(**{name: 3}), "b": Memory()})
    assert together == Memory()
