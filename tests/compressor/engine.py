"""What the engine's tests share: the toy recipe, and child processes that start quickly because they are forked."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

TOY = Path(__file__).parent / "toy"
ROOT = Path(__file__).parents[2]
RECIPE = "name: toy\nsummary: a toy\ntask: toy\nseed: 3\ntrain: {threads: 1, accelerator: cpu, validate_every: 7}\n"


@dataclass
class Toy:
    """The toy recipe in a directory of its own."""

    root: Path
    recipe: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """What the child processes printed."""
        path = self.root / "output.txt"
        return path.read_text() if path.exists() else ""

    def start(self, run: str, *overrides: str, die_at_write: int | None = None) -> ForkServerProcess:
        """Train (or resume) in a child process, in the run directory of that name."""
        from toy_tasks.child import train

        output, cache = self.root / "output.txt", self.root / "cache"
        return fork(
            train, str(self.recipe), list(overrides), str(self.root / run), str(cache), str(output), die_at_write
        )

    def finish(self, run: str, *overrides: str, **options: Any) -> int:
        process = self.start(run, *overrides, **options)
        process.join(120)
        assert process.exitcode is not None, f"still running:\n{self.said}"
        return process.exitcode

    def weights(self, run: str) -> bytes:
        return (self.root / run / "bundle" / "assets" / "weights.safetensors").read_bytes()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy method, found through its entry point as any other distribution's task."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    environment = {"PYTHONPATH": f"{TOY}:{ROOT}", "EDGE_COMPRESSOR_CACHE": str(tmp_path / "cache")}
    return Toy(tmp_path, recipe, environment)


def fork(target: Callable[..., None], *args: Any) -> ForkServerProcess:
    """Start `target(*args)` in a process that is forked from one that has imported torch and the engine already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["compressor.train", "torch.utils.tensorboard", "targets.export"])
    if str(TOY) not in sys.path:
        sys.path.insert(0, str(TOY))
    process = context.Process(target=target, args=args)
    process.start()
    return process


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
