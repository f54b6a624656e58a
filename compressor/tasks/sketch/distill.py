"""The student's stage: SketchyNetV1 on several canvases, and response terms against the teacher's embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.context import seed_globally
from compressor.ema import MovingAverage
from compressor.losses import contrastive, relational, response
from compressor.models.encoder import unit
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.sketch.config import DistillStageConfig, LossConfig
from compressor.tasks.sketch.teacher import channels_last
from compressor.tasks.sketch.views import draw, vary, vary_photos

if TYPE_CHECKING:
    from compressor.tasks.sketch.task import Task
    from compressor.train import Context


@dataclass(frozen=True)
class Side:
    """One side's view of a batch, student's or teacher's; rows L2-normalised.

    sketches (n, dim): the first m have a photo. photos (m, dim): theirs. keys (k, dim): the photos that compete, of
    which row `own[i]` is sketch i's.
    """

    sketches: Tensor
    photos: Tensor
    keys: Tensor


def sketch_losses(
    student: Side, teacher: Side, own: Tensor, prototypes: Tensor, weights: LossConfig, student_gallery: bool
) -> dict[str, Tensor]:
    """The terms whose weight is not zero, on one canvas, and their weighted sum as "loss".

    own (m,): row of `keys` of each paired sketch. prototypes (p, dim): the teacher's embeddings of all training photos.
    Source of the relational sum: SketchyNetV1; negatives are the hardest of `keys`.
    """
    paired = student.sketches[: len(own)]
    terms: dict[str, tuple[float, Tensor]] = {}
    if weights.relational:
        hardest = contrastive.hardest_negatives(paired, student.keys, own)
        ours = (paired, student.photos, student.keys[hardest])
        theirs = (teacher.sketches[: len(own)], teacher.photos, teacher.keys[hardest])
        triplet = contrastive.triplet(*ours, margin=weights.margin)
        terms["triplet"] = (weights.relational * weights.lambda_, triplet)
        if weights.lambda_ < 1:
            terms["rkd"] = (weights.relational * (1 - weights.lambda_), relational.rkd_triplet(ours, theirs))
    if weights.info_nce:
        terms["info_nce"] = (weights.info_nce, contrastive.info_nce(paired, student.photos, weights.temperature))
    if weights.prototype_ce and not student_gallery:
        value = response.prototype_cross_entropy(paired, student.keys, own, weights.temperature)
        terms["prototype_ce"] = (weights.prototype_ce, value)
    ours_all, theirs_all = student.sketches, teacher.sketches
    if student_gallery:
        ours_all, theirs_all = torch.cat([ours_all, student.photos]), torch.cat([theirs_all, teacher.photos])
    if weights.cosine:
        terms["cosine"] = (weights.cosine, response.cosine(ours_all, theirs_all))
    if weights.prototype_kl:
        temperature = weights.temperature
        value = response.prototype_kl(ours_all, theirs_all, prototypes, temperature, temperature)
        terms["prototype_kl"] = (weights.prototype_kl, value)
    total = torch.stack([weight * value for weight, value in terms.values()]).sum()
    return {"loss": total} | {name: value.detach() for name, (_, value) in terms.items()}


def without_teacher(weights: LossConfig) -> LossConfig:
    """The task losses alone. In an asymmetric gallery the photos' embeddings are the teacher's even then."""
    relational_weight = weights.relational * weights.lambda_
    return weights.model_copy(
        update={
            "relational": relational_weight,
            "lambda_": 1.0,
            "cosine": 0.0,
            "prototype_kl": 0.0,
            "feature": 0.0,
        }
    )


class DistillStage(Stage):
    """Train the student. Every step draws the same sketches on every canvas and averages the loss over canvases."""

    name = "distill"

    def __init__(self, task: Task, settings: DistillStageConfig | None = None) -> None:
        self.task = task
        self.settings = settings or task.config.stages.distill
        self.steps = self.settings.steps
        self.distilled = self.settings.signal == "teacher"
        self.weights = self.settings.loss if self.distilled else without_teacher(self.settings.loss)
        self.student_gallery = task.config.gallery == "student"
        self.projector: nn.Linear | None = None
        if self.weights.feature:
            seed_globally(task.config.seed, "projector")
            self.projector = nn.Linear(task.student.head.in_features, task.teacher.head.in_features)
        self.average = MovingAverage(self.settings.ema) if self.settings.ema else None

    def modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"student": self.task.student}
        return modules if self.projector is None else {**modules, "projector": self.projector}

    def optimizers(self) -> list[OptimizerSpec]:
        parameters = [parameter for module in self.modules().values() for parameter in module.parameters()]
        return [adamw(parameters, **self.settings.optimizer.model_dump(), steps=self.steps)]

    def start(self, context: Context) -> None:
        self.task.load_targets(context)
        if self.average is not None:
            self.average.start(self.task.student)
        self.rank, self.world_size, self._gather = context.rank, context.world_size, context.gather
        train = self.task.split.train
        self.prototypes = torch.from_numpy(np.array(self.task.targets["photos"][train])).to(context.device)

    # --- batches ---

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Drawings of pairs first, then drawings without a photo; only a teacher can say something about the latter."""
        task, settings = self.task, self.settings
        count = len(task.split.train)
        extra = len(task.drawings) - task.paired
        unpaired = round(settings.batch * settings.drawings_share) if self.distilled and extra else 0
        mine = np.arange(count)[self.rank :: self.world_size]
        # A pair twice in a batch would be its own negative where the student embeds the photos.
        paired = (
            min(settings.batch - unpaired, count // self.world_size)
            if self.student_gallery
            else settings.batch - unpaired
        )
        own = rng.choice(mine, paired, replace=not self.student_gallery)
        rows = np.concatenate([own, count + rng.integers(0, max(extra, 1), unpaired)])
        first, last = task.view_offsets[rows], task.view_offsets[rows + 1]
        views = rng.integers(first, last)
        sketches = [task.views[view] for view in views]
        if settings.jitter:
            sketches = [vary(sketch, rng, settings.jitter, mirrored=False) for sketch in sketches]
        canvases = settings.canvases
        if settings.canvases_per_step is not None:
            canvases = tuple(rng.permutation(canvases)[: settings.canvases_per_step].tolist())
        batch = {f"canvas_{px}": draw(sketches, px) for px in canvases}
        batch["own"] = torch.from_numpy(own)
        batch["teacher"] = torch.from_numpy(np.asarray(task.targets["views"][views]))
        if self.projector is not None:
            batch["features"] = torch.from_numpy(np.asarray(task.targets["features"][views], np.float32))
        if self.student_gallery:
            batch |= self._photos(own, task.mirrored[views[:paired]], canvases, rng)
        return batch

    def _photos(
        self, own: np.ndarray, mirrored: np.ndarray, canvases: tuple[int, ...], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The gallery vendor's photos of the paired sketches, mirrored as they are, at every canvas' size."""
        task = self.task
        photos = np.stack([task.pairs.photos(int(task.split.train[row]))[task.gallery_vendor] for row in own])
        largest = max(self.settings.canvases)
        varied = vary_photos(photos, largest, rng, self.settings.photo_strength, mirrored)
        sized = {
            px: torch.nn.functional.interpolate(varied, (px, px), mode="bilinear", antialias=True) for px in canvases
        }
        return {f"photos_{px}": pictures for px, pictures in sized.items()}

    # --- losses ---

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        canvases = [int(name.removeprefix("canvas_")) for name in batch if name.startswith("canvas_")]
        for px in canvases:
            for name, value in self._loss_on(modules, batch, px).items():
                sums[name] = sums.get(name, 0.0) + value / len(canvases)
        return sums

    def _loss_on(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor], px: int) -> dict[str, Tensor]:
        student = modules["student"]
        own, theirs, canvas = batch["own"], batch["teacher"], batch[f"canvas_{px}"]
        prototypes = self.prototypes
        if not self.student_gallery:
            embeddings, features = self._embed(student, canvas)
            sketches = unit(embeddings)
            photos = prototypes[own]
            ours, taught = Side(sketches, photos, prototypes), Side(theirs, photos, prototypes)
            losses = sketch_losses(ours, taught, own, prototypes, self.weights, student_gallery=False)
            if features is not None:
                value = functional.mse_loss(modules["projector"](features), batch["features"])
                losses |= {"loss": losses["loss"] + self.weights.feature * value, "feature": value.detach()}
            return losses
        # One pass over both kinds, so that batch norm's statistics are those of both.
        pictures = torch.cat([(1 - canvas).expand(-1, 3, -1, -1), batch[f"photos_{px}"]])
        sketches, photos = unit(student(channels_last(pictures))).split([len(canvas), len(own)])
        # Pairs of all processes compete; drawings without a photo follow them.
        rows = self._gather(own)
        sketches, theirs = (self._gather_parts(part, len(own)) for part in (sketches, theirs))
        photos, taught_photos = self._gather(photos), prototypes[rows]
        ours, taught = Side(sketches, photos, photos), Side(theirs, taught_photos, taught_photos)
        return sketch_losses(
            ours, taught, torch.arange(len(rows), device=rows.device), prototypes, self.weights, student_gallery=True
        )

    def _embed(self, student: nn.Module, canvas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings, and the pooled features before the head where a loss reads them."""
        seen: list[Tensor] = []
        if self.projector is None:
            return student(channels_last(canvas)), None
        hook = self.task.student.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            embeddings = student(channels_last(canvas))
        finally:
            hook.remove()
        return embeddings, seen[0]

    def after_step(self, step: int) -> None:
        if self.average is not None:
            self.average.update(self.task.student)
            if step + 1 == self.steps:
                self.average.copy_to(self.task.student)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.average is None else {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])

    def _gather_parts(self, rows: Tensor, paired: int) -> Tensor:
        """The paired rows of all processes, then the others of all."""
        return (
            torch.cat([self._gather(rows[:paired]), self._gather(rows[paired:])])
            if len(rows) > paired
            else self._gather(rows)
        )

    def validate(self, context: Context) -> dict[str, float]:
        """acc@1 on the validation part, on every canvas."""
        part, task = self.task.split.validation, self.task
        result = {}
        with self.average.in_place_of(task.student) if self.average is not None else contextlib.nullcontext():
            for px in self.settings.canvases:
                result[f"acc@1_{px}px"] = task.student_accuracy(part, px, context.device)
        return result
