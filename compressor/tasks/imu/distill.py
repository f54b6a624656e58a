"""The student's stages: distil through the queue (or a baseline's loss), and SimCLR on unlabelled windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.context import seed_globally
from compressor.losses.contrastive import info_nce
from compressor.losses.queue import EmbeddingQueue, queue_cross_entropy
from compressor.losses.response import cosine
from compressor.models.encoder import unit
from compressor.models.imu_encoder import Projector
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.imu.augment import vary
from compressor.tasks.imu.config import SimclrStageConfig
from compressor.tasks.imu.probe import embed

if TYPE_CHECKING:
    from compressor.tasks.imu.task import Task
    from compressor.train import Context


class DistillStage(Stage):
    """The student's projected features of a window against what the frozen teacher says about its video.

    With `simclr`, SimCLR on the same number of unlabelled real windows is added, through a projector of its own. The
    projectors are dropped afterwards.
    """

    name = "distill"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings = task.config.stages.distill
        self.steps = self._steps(task.context.world_size)
        self.queue = EmbeddingQueue(self.settings.queue_length)
        seed_globally(task.config.seed, "projector")
        features = task.student.num_features
        self.projector = Projector(features, self.settings.hidden, task.teacher_dim)
        simclr = task.config.stages.simclr
        self.simclr = Projector(features, simclr.hidden, simclr.dim) if self.settings.simclr else None

    def modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"student": self.task.student, "projector": self.projector}
        return modules if self.simclr is None else {**modules, "simclr": self.simclr}

    def optimizers(self) -> list[OptimizerSpec]:
        parameters = [parameter for module in self.modules().values() for parameter in module.parameters()]
        return [adamw(parameters, **self.settings.optimizer.over(self.steps))]

    def start(self, context: Context) -> None:
        self.rank, self.world_size, self._gather = context.rank, context.world_size, context.gather
        self.targets = self.task.load_targets(context)
        if self.settings.centre:
            centred = self.targets - self.targets[self.task.train_pairs].mean(0)
            self.targets = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-9)

    def _steps(self, world_size: int) -> int:
        settings = self.settings
        if settings.epochs is None:
            return settings.steps
        return settings.epochs * max(1, len(self.task.train_pairs) // (settings.batch * world_size))

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        settings, task = self.settings, self.task
        own = task.train_pairs[self.rank :: self.world_size]
        chosen = rng.choice(own, min(settings.batch, len(own)), replace=False)
        signals = vary(task.pair_signals[chosen], rng, settings.augment)
        batch = {"signals": torch.from_numpy(signals), "teacher": torch.from_numpy(self.targets[chosen])}
        if self.simclr is not None:
            batch["views"] = two_views(task, task.config.stages.simclr, rng, self.rank, self.world_size)
        return batch

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        settings = self.settings
        count = len(batch["signals"])
        signals = torch.cat([batch["signals"], batch["views"]]) if self.simclr is not None else batch["signals"]
        features = modules["student"](signals)
        student, teacher = unit(modules["projector"](features[:count])), batch["teacher"]
        if settings.loss == "queue":
            self.queue.append(self._gather(teacher))  # before the product: a row always meets its own
            value = queue_cross_entropy(
                student, teacher, self.queue.rows, settings.student_temperature, settings.teacher_temperature
            )
        elif settings.loss == "info_nce":
            value = info_nce(self._gather(student), self._gather(teacher), settings.info_nce_temperature)
        else:
            value = 2 * cosine(student, teacher)  # |a - b|^2 of unit rows
        if self.simclr is None:
            return {"loss": value}
        beside = simclr_loss(modules["simclr"](features[count:]), self.task.config.stages.simclr, self._gather)
        return {"loss": value + settings.simclr * beside, settings.loss: value.detach(), "simclr": beside.detach()}

    def validate(self, context: Context) -> dict[str, float]:
        """How often the own video is the nearest of 100, on held-out clips; the probe on the validation people."""
        result = probe_accuracy(self.task, context)
        held = self.task.held_out_pairs
        if len(held) >= 100:
            chosen = context.rng("retrieval").choice(held, len(held) // 100 * 100, replace=False)
            features = embed(self.task.student, self.task.pair_signals[chosen], context.device)
            projector = self.projector.to(context.device)
            student = unit(projector(torch.from_numpy(features).to(context.device))).cpu().numpy()
            groups = student.reshape(-1, 100, student.shape[1]), self.targets[chosen].reshape(-1, 100, student.shape[1])
            similarity = np.einsum("gid,gjd->gij", *groups)
            own = np.einsum("gii->gi", similarity)[..., None]
            result["retrieval@1"] = float(((similarity >= own).sum(-1) == 1).mean())
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"queue": self.queue.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.queue.load_state_dict(state["queue"])


class SimclrStage(Stage):
    """SimCLR alone: see SimclrStageConfig."""

    name = "simclr"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings = task.config.stages.simclr
        self.steps = self.settings.steps
        seed_globally(task.config.seed, "simclr-projector")
        self.projector = Projector(task.student.num_features, self.settings.hidden, self.settings.dim)

    def modules(self) -> dict[str, nn.Module]:
        return {"student": self.task.student, "projector": self.projector}

    def optimizers(self) -> list[OptimizerSpec]:
        parameters = [parameter for module in self.modules().values() for parameter in module.parameters()]
        return [adamw(parameters, **self.settings.optimizer.over(self.steps))]

    def start(self, context: Context) -> None:
        self.rank, self.world_size, self._gather = context.rank, context.world_size, context.gather

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"views": two_views(self.task, self.settings, rng, self.rank, self.world_size)}

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        projected = modules["projector"](modules["student"](batch["views"]))
        return {"loss": simclr_loss(projected, self.settings, self._gather)}

    def validate(self, context: Context) -> dict[str, float]:
        return probe_accuracy(self.task, context)


def two_views(task: Task, settings: SimclrStageConfig, rng: np.random.Generator, rank: int, world_size: int) -> Tensor:
    """(2 batch, 6, length): one variation of every window, then another of each."""
    pool, rows = (
        (task.train_signals, np.arange(len(task.train_signals)))
        if settings.windows == "labelled"
        else (task.pair_signals, task.train_pairs)
    )
    own = rows[rank::world_size]
    signals = pool[rng.choice(own, min(settings.batch, len(own)), replace=False)]
    return torch.from_numpy(np.concatenate([vary(signals, rng, settings.augment) for _ in range(2)]))


def simclr_loss(projected: Tensor, settings: SimclrStageConfig, gather: Any) -> Tensor:
    """NT-Xent over two views of every window: (2 n, dim) -> scalar. Source: Chen et al. 2020, eq. 1."""
    one, two = (gather(part) for part in unit(projected).chunk(2))
    rows = torch.cat([one, two])
    logits = rows @ rows.T / settings.temperature
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logits = logits.masked_fill(itself, -torch.inf)
    target = torch.arange(len(rows), device=rows.device).roll(len(one))
    return nn.functional.cross_entropy(logits, target)


def probe_accuracy(task: Task, context: Context) -> dict[str, float]:
    """The linear probe at one percent of the labels, on the validation people."""
    from compressor.tasks.imu.probe import accuracy, fit_probe

    if not len(task.validation_signals):
        return {}
    rows = task.labelled_rows(0.01, 0)
    settings = task.config.stages.classify
    features = embed(task.student, task.train_signals[rows], context.device)
    probe = fit_probe(features, task.train_labels[rows], len(task.classes), settings.probe_penalty)
    scores = probe(embed(task.student, task.validation_signals, context.device))
    return {"probe@1%": accuracy(scores, task.validation_labels)}
