"""Fixtures that several of these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compressor.engine import RECIPE, ROOT, TOY, Toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy method, found through its entry point as any other distribution's task."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    environment = {"PYTHONPATH": f"{TOY}:{ROOT}", "EDGE_COMPRESSOR_CACHE": str(tmp_path / "cache")}
    return Toy(tmp_path, recipe, environment)
