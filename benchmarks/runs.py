"""Training runs of benchmarks: continued where they were stopped, their time added up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(recipe: str, work: Path, name: str, overrides: Sequence[str]) -> Path:
    """A finished run of the recipe with these overrides, in a directory of its own in `work`."""
    from compressor.recipe import load_recipe
    from compressor.train import distill

    label = name.replace(" ", "-").replace("/", "-of-")
    loaded = load_recipe(recipe, [*overrides, f"name={label}"])
    run_dir = work / f"{label}-{loaded.hash[:12]}"
    before, began = _record(run_dir), time.monotonic()
    distill(loaded, run_dir, resume=True)
    spent(work, time.monotonic() - began)
    if not before.get("complete"):
        _here[0] += sum(stage["seconds"] for stage in _record(run_dir)["stages"].values())
    return run_dir


def _record(run_dir: Path) -> dict[str, Any]:
    from profiles.storage import read_json

    path = run_dir / "run.json"
    return read_json(path) if path.exists() else {}


_here = [0.0]


def spent_here() -> float:
    """Seconds of training of the runs that this process has finished, whichever process began them."""
    return _here[0]


def spent(work: Path, seconds: float = 0.0) -> float:
    """Add to the seconds spent in training so far, over all starts of a program; returns their sum."""
    from profiles.storage import read_json, write_json

    path = work / "seconds.json"
    total = (read_json(path) if path.exists() else 0.0) + seconds
    write_json(path, total)
    return total


def teacher_weights(run_dir: Path) -> Path:
    """The weights of a run's teacher as one file, for students to start from."""
    from safetensors.torch import save_file

    from compressor.checkpoint import Checkpoints
    from profiles.storage import atomic_file

    path = run_dir / "teacher.safetensors"
    if not path.exists():
        weights = Checkpoints(run_dir / "checkpoints" / "teacher").load("final")["shared"]["modules"]["teacher"]
        with atomic_file(path) as temporary:
            save_file({key: value.contiguous() for key, value in weights.items()}, temporary)
    return path
