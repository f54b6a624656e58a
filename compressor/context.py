"""Context: what a task and its stages may ask of the run that they are in; and the generators of a step."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from compressor import distributed
from compressor.cache import TeacherCache
from compressor.runlog import RunLog


@dataclass(frozen=True)
class Context:
    """One per process. `rank` counts from 0; the process of rank 0 writes and speaks."""

    fabric: Fabric
    rank: int
    world_size: int
    run_dir: Path
    cache: TeacherCache
    recipe: Any  # the task's Config
    run_log: RunLog

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add numbers of the current stage to metrics.jsonl and TensorBoard (rank 0; elsewhere nothing happens)."""
        self.run_log.log(metrics, step)

    def say(self, message: str) -> None:
        """One line on standard error (rank 0)."""
        self.run_log.say(message)

    def gather(self, tensor: Tensor) -> Tensor:
        """(n, ...) in each process -> (world_size n, ...) in all, by rank, with gradient. See `distributed.gather`."""
        return distributed.gather(tensor)

    def rng(self, *place: str | int) -> np.random.Generator:
        """A generator of (seed, *place): the same in every process and every run, for setting up and validating."""
        return np.random.default_rng(entropy(self.recipe.seed, *place))


def entropy(seed: int, *place: str | int) -> list[int]:
    """Independent seed material for every place, from a hash of its parts."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]


def seed_globally(seed: int, *place: str | int) -> None:
    """Seed the global generators of torch (the CPU's and those of devices in use), numpy and Python for one place."""
    words = np.random.SeedSequence(entropy(seed, *place)).generate_state(3, np.uint64)
    torch_seed = int(words[0]) >> 1
    # Not torch.manual_seed: it takes a stack trace for every device that is not there, a millisecond per step.
    torch.default_generator.manual_seed(torch_seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(torch_seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(torch_seed)
    random.seed(int(words[1]))
    np.random.seed(int(words[2] & np.uint64(0xFFFFFFFF)))  # libraries still draw from it
