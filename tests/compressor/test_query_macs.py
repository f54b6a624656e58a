"""The record of a whole student counts what its glue does beside the graphs; those of its graphs do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from compressor.records import Subject, known_beforehand
from profiles.device import load_device
from profiles.flops import Costs
from targets.bundle import Bundle


def test_a_query_is_its_graphs_by_their_calls_and_the_glue_s_own_work() -> None:
    uses = {"query": {"small": 1.0, "large": 0.25}}
    stub = SimpleNamespace(
        student="s", graphs=["small", "large"], uses=uses, manifest={"graphs": {"small": {}, "large": {}}}
    )
    costs = {name: Costs(macs, 10, 0, 0, (), {}, {}) for name, macs in (("small", 100), ("large", 1000))}
    subject = Subject(cast(Bundle, stub), costs, {}, {"drawing": 7.0, "search": 30.5})
    rows = known_beforehand(subject, load_device("host"), "onnx", "fp32", "unsupported", "a test")
    macs = {row.graph: row.macs for row in rows}
    assert macs == {"small": 100, "large": 1000, "*": pytest.approx(100 + 250 + 37.5)}
    assert rows[-1].flops == pytest.approx(2 * 387.5)
