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

TOY = Path(__file__).parent / "toy"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0  # a process of this engine takes seconds; on a machine full of other work many times that
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

    def start(
        self, run: str, *overrides: str, die_at_write: int | None = None, die_after_seconds: float | None = None
    ) -> ForkServerProcess:
        """Train (or resume) in a child process, in the run directory of that name."""
        from toy_tasks.child import train

        paths = (self.root / run, self.root / "cache", self.root / "output.txt")
        return fork(train, str(self.recipe), list(overrides), *map(str, paths), die_at_write, die_after_seconds)

    def finish(self, run: str, *overrides: str, **options: Any) -> int:
        process = self.start(run, *overrides, **options)
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"still running:\n{self.said}")
        return process.exitcode

    def weights(self, run: str) -> bytes:
        return (self.root / run / "bundle" / "assets" / "weights.safetensors").read_bytes()


def fork(target: Callable[..., None], *args: Any) -> ForkServerProcess:
    """Start `target(*args)` in a process that is forked from one that has imported torch and the engine already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["compressor.train", "torch.utils.tensorboard", "targets.export"])
    if str(TOY) not in sys.path:
        sys.path.insert(0, str(TOY))
    process = context.Process(target=target, args=args)
    process.start()
    return process


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
