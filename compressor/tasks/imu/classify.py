"""The last stage: a class head on the student, first as a probe of frozen features, then fine-tuned with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.context import seed_globally
from compressor.models.imu_encoder import ImuEncoder
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.imu.augment import vary
from compressor.tasks.imu.config import ClassifyStageConfig
from compressor.tasks.imu.probe import Probe, accuracy, embed, fit_probe

if TYPE_CHECKING:
    from compressor.tasks.imu.task import Task
    from compressor.train import Context


class Classifier(nn.Module):
    """Encoder, fixed standardisation of its features, linear head: scaled windows (n, 6, length) -> (n, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: ImuEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, classes)
        self.register_buffer("mean", torch.zeros(encoder.num_features))
        self.register_buffer("std", torch.ones(encoder.num_features))

    def forward(self, windows: Tensor) -> Tensor:
        return self.head((self.encoder(windows) - self.mean) / self.std)

    @torch.no_grad()
    def take(self, probe: Probe, with_head: bool) -> None:
        """The probe's standardisation, and its weights as the head's."""
        self.mean.copy_(torch.from_numpy(probe.mean))
        self.std.copy_(torch.from_numpy(probe.std))
        if with_head:
            self.head.weight.copy_(torch.from_numpy(probe.weight))
            self.head.bias.copy_(torch.from_numpy(probe.bias))

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """The head's weight (classes, features) and bias on features as the encoder gives them."""
        arrays = (value.detach().cpu().numpy() for value in (self.mean, self.std, self.head.weight, self.head.bias))
        return Probe(*arrays).folded()


class ClassifyStage(Stage):
    """Probe, then fine-tune everything. `name` tells stages of several label draws apart."""

    def __init__(self, task: Task, settings: ClassifyStageConfig | None = None, name: str = "classify") -> None:
        self.task, self.name = task, name
        self.settings = settings or task.config.stages.classify
        self.steps = self.settings.steps
        self.rows = task.labelled_rows(self.settings.label_share, self.settings.label_draw)
        seed_globally(task.config.seed, "classifier", name)
        self.classifier = Classifier(copy.deepcopy(task.student), len(task.classes))
        self.prepared = False

    def modules(self) -> dict[str, nn.Module]:
        return {"classifier": self.classifier}

    def optimizers(self) -> list[OptimizerSpec]:
        return (
            [adamw(list(self.classifier.parameters()), **self.settings.optimizer.over(self.steps))]
            if self.steps
            else []
        )

    def start(self, context: Context) -> None:
        """The student of now, and the probe of its features, unless a resumed run has gone on from them."""
        self.rank, self.world_size = context.rank, context.world_size
        if self.prepared:
            return
        self.prepared = True
        self.classifier.encoder.load_state_dict(self.task.student.state_dict())
        if self.steps:
            settle_statistics(self.classifier.encoder, self.task.train_signals[self.rows], context.device)
        probe = self.fit_probe(context)
        self.classifier.take(probe, with_head=self.settings.start_from_probe or not self.steps)

    def fit_probe(self, context: Context) -> Probe:
        features = embed(self.classifier.encoder, self.task.train_signals[self.rows], context.device)
        labels = self.task.train_labels[self.rows]
        return fit_probe(features, labels, len(self.task.classes), self.settings.probe_penalty)

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        own = self.rows[self.rank :: self.world_size]
        chosen = rng.choice(own, self.settings.batch, replace=len(own) < self.settings.batch)
        signals = vary(self.task.train_signals[chosen], rng, self.settings.augment)
        return {"signals": torch.from_numpy(signals), "labels": torch.from_numpy(self.task.train_labels[chosen])}

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        scores = modules["classifier"](batch["signals"])
        return {
            "loss": functional.cross_entropy(scores, batch["labels"], label_smoothing=self.settings.label_smoothing)
        }

    def scores(self, signals: np.ndarray, device: torch.device) -> np.ndarray:
        """Scaled signals (n, 6, length) -> (n, classes)."""
        return embed(self.classifier, signals, device)

    def validate(self, context: Context) -> dict[str, float]:
        if not len(self.task.validation_signals):
            return {}
        scores = self.scores(self.task.validation_signals, context.device)
        return {"accuracy": accuracy(scores, self.task.validation_labels)}

    def state_dict(self) -> dict[str, bool]:
        return {"prepared": self.prepared}

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        self.prepared = state["prepared"]


@torch.no_grad()
def settle_statistics(encoder: nn.Module, signals: np.ndarray, device: torch.device, batch: int = 64) -> None:
    """Batch norm's running statistics become the means over batches of these windows.

    Fine-tuning normalises by the batch; a probe of features that were normalised otherwise (a fresh network, a
    simulated sensor) would be a bad place to start from. The frozen probe keeps the statistics of pre-training.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    encoder.to(device).train()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean
    order = np.random.default_rng(0).permutation(len(signals))  # rows come class by class
    for part in np.array_split(order, max(1, len(order) // batch)):
        encoder(torch.from_numpy(signals[part]).to(device))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
