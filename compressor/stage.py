"""Task and Stage: what a method is made of. docs/architecture.md has the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressor.recipe import RecipeConfig
    from compressor.train import Context, Trainer
    from targets.export import BundleWriter


@dataclass
class OptimizerSpec:
    """An optimiser and its scheduler, which is stepped once per optimiser step."""

    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None


class Stage:
    """One phase of training. The default `run` is the loop of `Trainer.fit`; a stage may override it."""

    name: str
    steps: int = 0

    def modules(self) -> dict[str, nn.Module]:
        """What this stage trains, by name: wrapped by Fabric, saved in checkpoints, restored for later stages."""
        return {}

    def optimizers(self) -> list[OptimizerSpec]:
        return []

    def start(self, context: Context) -> None:
        """Called before the first step, also after a resume (weights are restored by then)."""

    def batch(self, step: int, rng: np.random.Generator) -> Any:
        """The batch of one step: a pure function of `step` and `rng`, so that a resumed run sees the same data."""
        raise NotImplementedError

    def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Scalar losses; "loss" is the one that is minimised. `modules` are those of `modules()`, wrapped by Fabric."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after every optimiser step: EMA, queues, baselines."""

    def validate(self, context: Context) -> dict[str, float]:
        """Metrics on the validation part. Called every `train.validate_every` steps and at the end."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State of the stage's own, beside its modules: nested dicts of tensors and numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def run(self, trainer: Trainer) -> None:
        """The whole stage. Override for work that is not a loop over a loss."""
        trainer.fit(self)


class Task:
    """A method: pairs, teacher, student, stages, metric. One folder in compressor/tasks, with `task.py` and `glue.py`."""

    Config: ClassVar[type[RecipeConfig]]

    def __init__(self, config: Any) -> None:
        self.config = config

    def setup(self, context: Context) -> None:
        """Build data and modules, deterministically in the recipe's seed. Called once in every process."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """The phases, in order."""
        raise NotImplementedError

    def export(self, writer: BundleWriter) -> None:
        """Write the deployable student. Called in one process, after the last stage."""
        raise NotImplementedError
