"""Task and Stage: what a method is made of. docs/architecture.md has the picture."""

from __future__ import annotations

import math
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
    """An optimiser, its scheduler (stepped once per optimiser step), and the largest L2 norm of its gradients.

    `clip_norm` None means the recipe's `train.clip_norm`.
    """

    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    clip_norm: float | None = None


def adamw(
    groups: list[dict[str, Any]] | list[nn.Parameter], *, lr: float, weight_decay: float, warmup_steps: int, steps: int
) -> OptimizerSpec:
    """AdamW with a linear warm-up over `warmup_steps` (the step after them has the whole rate) and a cosine to zero at
    the last of `steps`. `groups`: parameters, or torch's parameter groups, which may have rates of their own."""
    import torch

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (warmup_steps + 1))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(steps, 1))))

    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    return OptimizerSpec(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor))


class Stage:
    """One phase of training. The default `run` is the loop of `Trainer.fit`; a stage may override it.

    Order of calls, in every process. A new stage: `modules`, `optimizers`, `start`, then the steps. A resumed one:
    `load_state_dict`, `modules`, weights are restored, `optimizers`, their state is restored, `start`, the steps that
    are left. A stage that was already done when the run was resumed: `load_state_dict`, `modules`, weights are
    restored; it is not run again. So `load_state_dict` may rebuild what `modules` gives (a pruned network), must not
    rely on `start`, and `start` must not reset what it brought back. What a stage only writes to the cache, later
    stages read from the cache.

    With several processes, `loss` is averaged over them by its gradients, and `train.Context.gather` joins tensors.
    """

    name: str
    steps: int = 0

    def modules(self) -> dict[str, nn.Module]:
        """What this stage trains, by name: wrapped by Fabric, saved in checkpoints, restored for later stages."""
        return {}

    def optimizers(self) -> list[OptimizerSpec]:
        return []

    def start(self, context: Context) -> None:
        """Called before the first step, also after a resume (weights and state are restored by then).

        Modules are on their device and in training mode; freeze batch norm here. `steps` is read after it.
        """

    def batch(self, step: int, rng: np.random.Generator) -> Any:
        """The batch of one step: a pure function of `step` and `rng`, so that a resumed run sees the same data.

        `rng` is seeded from the recipe's seed, the stage's name, the step and the process. Called in a thread, ahead of
        its step: it must use no other generator and read nothing that training changes. Tensors in it (also inside
        dicts, lists and tuples) are moved to the device.
        """
        raise NotImplementedError

    def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        """Scalar losses; "loss" is the one that is minimised. `modules` are those of `modules()`, wrapped by Fabric."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after every optimiser step (`step` counts from 0): EMA, queues, baselines."""

    def validate(self, context: Context) -> dict[str, float]:
        """Metrics on the validation part. Called every `train.validate_every` steps and at the end, in every process.

        The stage's modules are in evaluation mode and nothing records gradients.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State of the stage's own, beside its modules: nested dicts and lists of tensors, numbers, strings, None."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def run(self, trainer: Trainer) -> None:
        """The whole stage. Override for work that is not a loop over a loss; `trainer.context` has what it needs.

        It may call `trainer.fit` with stages of its own (their names must differ from all others); those resume by
        their own checkpoints. A stage that does not call `fit` starts from its beginning when the run is resumed.
        """
        trainer.fit(self)


class TargetsStage(Stage):
    """What a frozen teacher says about a task's inputs, in the cache on disk: the task's `load_targets(context)`."""

    name = "targets"

    def __init__(self, task: Any) -> None:
        self.task = task

    def run(self, trainer: Trainer) -> None:
        self.task.load_targets(trainer.context)


class Task:
    """A method: pairs, teacher, student, stages, metric. One folder in compressor/tasks: `task.py`, `glue.py`."""

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
