"""Parts of long benchmarks: measured once, and again only under other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import parts
from benchmarks.parts import Parts, packed, unpacked


def test_a_part_is_measured_once_and_again_under_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "RESULTS", tmp_path)
    calls: list[int] = []

    def measure(value: int) -> dict[str, Any]:
        calls.append(value)
        return {"right": packed(np.array([1.0, 0.0, 1.0])), "value": value}

    first = Parts("toy", "recipe a").get("both fold 0, seed 1", measure, 7)
    kept = Parts("toy", "recipe a").get("both fold 0, seed 1", measure, 8)
    assert first == kept and calls == [7]
    assert unpacked(kept["right"]).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="only 0 and 1"):
        packed(np.array([0.5]))
    assert [path.name for path in (tmp_path / "parts/toy").iterdir()] == ["both-fold-0-seed-1.json"]
    assert Parts("toy", "recipe b").get("both fold 0, seed 1", measure, 8)["value"] == 8


def test_a_part_with_settings_of_its_own_is_measured_again_when_these_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "RESULTS", tmp_path)
    toy = Parts("toy", "recipe")
    values = iter(range(9))
    found = [toy.get("student", lambda: {"value": next(values)}, of=of)["value"] for of in (["a"], ["a"], ["b"], [])]
    assert found == [0, 0, 1, 2]
