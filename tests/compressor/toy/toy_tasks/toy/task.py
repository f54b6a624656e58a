"""A toy method for tests of the engine: everything that a resume could lose, small.

`teacher` fits an MLP with dropout and batch norm; `freeze` is a stage without a loop, which folds the teacher's outputs
into the cache; `distill` trains a student with two optimisers, a cosine schedule, an EMA of its weights and a queue.
`quantise`, if it has steps, is the same once more with the student's layers in simulated integers.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from compressor import stage as engine
from compressor.cache import weights_hash
from compressor.context import Context
from compressor.quantise_aware import QuantiseAware
from compressor.recipe import RecipeConfig, Section, operational
from compressor.stage import OptimizerSpec, Stage

CLASSES, FEATURES = 4, 16


class FitConfig(Section):
    steps: int = 30
    batch: int = 16
    lr: float = 1e-2


class Stages(Section):
    teacher: FitConfig = FitConfig()
    distill: FitConfig = FitConfig()
    quantise: FitConfig = FitConfig(steps=0)


class ToyConfig(RecipeConfig):
    stages: Stages = Stages()
    clip: float | None = 1.0
    pause_ms: float = operational(0.0)
    fail_at: int | None = operational(None)  # a step at which the loss is infinite
    export_graph: bool = False
    more: dict[str, FitConfig | None] = Field(default_factory=dict)
    die: bool = operational(False)  # the process of rank 1 kills itself after a few steps


def mlp(width: int, normalise: bool = True) -> nn.Sequential:
    norm = nn.BatchNorm1d(width) if normalise else nn.LayerNorm(width)
    return nn.Sequential(nn.Linear(FEATURES, width), norm, nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, CLASSES))


class Loop(Stage):
    """What both training stages share: batches of a fixed synthetic set."""

    def __init__(self, task: Task, name: str, config: FitConfig) -> None:
        self.task, self.name, self.config, self.steps = task, name, config, config.steps

    def batch(self, step: int, rng: np.random.Generator) -> Any:
        if self.task.config.pause_ms:
            time.sleep(self.task.config.pause_ms / 1000)
        rows = rng.integers(0, len(self.task.x), self.config.batch)
        noise = rng.normal(0, 0.1, (len(rows), FEATURES)).astype(np.float32)
        return {"rows": torch.from_numpy(rows), "x": torch.from_numpy(self.task.x[rows] + noise)}

    def specs(self, *groups: Any) -> list[OptimizerSpec]:
        optimizers = [torch.optim.AdamW(group, lr=self.config.lr) for group in groups]
        horizon = max(self.steps, 1)
        schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, horizon) for optimizer in optimizers]
        return [OptimizerSpec(o, s, self.task.config.clip) for o, s in zip(optimizers, schedulers, strict=True)]

    def accuracy(self, module: nn.Module) -> dict[str, float]:
        answers = module(torch.from_numpy(self.task.x)).argmax(1).numpy()
        return {"accuracy": float((answers == self.task.y).mean())}


class TeacherStage(Loop):
    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.task.teacher}

    def optimizers(self) -> list[OptimizerSpec]:
        return self.specs(self.task.teacher.parameters())

    def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        labels = torch.from_numpy(self.task.y)[batch["rows"]]
        return {"loss": F.cross_entropy(modules["teacher"](batch["x"]), labels)}

    def validate(self, context: Context) -> dict[str, float]:
        return self.accuracy(self.task.teacher)


class FreezeStage(Stage):
    """No loop: fills the cache with the teacher's outputs."""

    name = "freeze"

    def __init__(self, task: Task) -> None:
        self.task = task

    def run(self, trainer: Any) -> None:
        trainer.context.say("freeze runs")
        self.task.teacher_outputs(trainer.context)


class DistillStage(Loop):
    def __init__(self, task: Task, name: str, config: FitConfig) -> None:
        super().__init__(task, name, config)
        self.ema = copy.deepcopy(task.student)
        self.queue = torch.zeros(8, CLASSES)
        self.best, self.seen = float("-inf"), 0

    def modules(self) -> dict[str, nn.Module]:
        return {"student": self.task.student, "head": self.task.head}

    def optimizers(self) -> list[OptimizerSpec]:
        return self.specs(self.task.student.parameters(), self.task.head.parameters())

    def start(self, context: Context) -> None:
        self.context = context
        self.targets = torch.from_numpy(np.array(self.task.teacher_outputs(context)))

    def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        config = self.task.config
        targets = self.targets[batch["rows"]].softmax(1)
        output = modules["student"](batch["x"])
        twice = modules["student"](batch["x"] * 0.9)  # a second forward pass in the same step, as with several canvases
        embedded = self.context.gather(F.normalize(modules["head"](output), dim=1))
        spread = (embedded @ embedded.T).square().mean() + (embedded @ self.queue.T).mean()
        self.latest = self.context.gather(output.detach())[:2]
        kl = F.kl_div(output.log_softmax(1), targets, reduction="batchmean")
        loss = kl + 0.1 * spread + 0.1 * twice.square().mean()
        if self.seen == config.fail_at:
            loss = loss * float("inf")
        if config.die and self.context.rank == 1 and self.seen == 3:
            os.kill(os.getpid(), 9)
        return {"loss": loss, "kl": kl}

    def after_step(self, step: int) -> None:
        self.seen = step + 1
        self.queue = torch.cat([self.queue[2:], self.latest])
        with torch.no_grad():
            pairs = zip(self.ema.state_dict().values(), self.task.student.state_dict().values(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, 0.1) if mean.is_floating_point() else mean.copy_(value)

    def validate(self, context: Context) -> dict[str, float]:
        metrics = self.accuracy(self.task.student)
        self.best = max(self.best, metrics["accuracy"])
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"ema": self.ema.state_dict(), "queue": self.queue, "best": self.best, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ema.load_state_dict(state["ema"])
        self.queue, self.best, self.seen = state["queue"], state["best"], state["seen"]


class Task(engine.Task):
    Config = ToyConfig

    def setup(self, context: Context) -> None:
        rng = context.rng("data")
        centres = rng.normal(0, 1.5, (CLASSES, FEATURES))
        self.y = rng.integers(0, CLASSES, 200)
        self.x = (centres[self.y] + rng.normal(0, 1, (200, FEATURES))).astype(np.float32)
        self.teacher, self.student = mlp(32), mlp(8)
        self.head = nn.Linear(CLASSES, CLASSES)
        self.distill = DistillStage(self, "distill", self.config.stages.distill)

    def stages(self) -> list[Stage]:
        stages: list[Stage] = [
            TeacherStage(self, "teacher", self.config.stages.teacher),
            FreezeStage(self),
            self.distill,
        ]
        if self.config.stages.quantise.steps:
            inner = DistillStage(self, "fine-tuning", self.config.stages.quantise)
            stages.append(QuantiseAware(inner, quantise=["student"]))
        return stages

    def teacher_outputs(self, context: Context) -> np.ndarray:
        key = {"teacher": weights_hash(self.teacher), "seed": self.config.seed}

        def compute() -> dict[str, np.ndarray]:
            with torch.no_grad():
                return {"z": self.teacher.eval()(torch.from_numpy(self.x)).numpy()}

        return context.cache.get(key, compute)["z"]

    def export(self, writer: Any) -> None:
        tensors = {
            f"{name}.{key}": value.clone()
            for name, module in {"teacher": self.teacher, "student": self.student, "head": self.head}.items()
            for key, value in module.state_dict().items()
        }
        tensors |= {f"ema.{key}": value for key, value in self.distill.ema.state_dict().items()}
        writer.asset("weights.safetensors", save(tensors | {"queue": self.distill.queue.clone()}))
        if not self.config.export_graph:
            writer.uses({"nothing": {}})
            return
        x = self.x[:16]
        writer.add_graph("student", self.student, {"x": x[:1]}, outputs=("z",))
        writer.calibration("student", {"x": x})
        writer.golden("student", {"x": x})
        writer.uses({"query": {"student": 1}})
        writer.split("validation", {"x": self.x[:50], "y": self.y[:50]})
        writer.split("test", {"x": self.x[50:], "y": self.y[50:]})


def weights_of(bundle: Path) -> bytes:
    return (bundle / "assets" / "weights.safetensors").read_bytes()
