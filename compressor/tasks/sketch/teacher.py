"""Stages of the teacher: fine-tune a photo network on sketch-photo pairs, then write down what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.cache import weights_hash
from compressor.context import entropy
from compressor.losses.contrastive import info_nce, triplet_in_batch
from compressor.models.encoder import Encoder, freeze_first_stages, unit
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.sketch.views import draw, resize_photos, vary, vary_photos

if TYPE_CHECKING:
    from compressor.data.sketch import Sketch
    from compressor.tasks.sketch.task import Task
    from compressor.train import Context

CHUNK = 64
REVISION = 2  # of the views and of how outputs are computed: part of the cache's key


def channels_last(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def embed_sketches(encoder: nn.Module, sketches: list[Sketch], canvas_px: int, device: torch.device) -> np.ndarray:
    """(n, dim) float32 of L2-normalised embeddings; the module is left in the mode that it was in."""
    chunks = (sketches[start : start + CHUNK] for start in range(0, len(sketches), CHUNK))
    return _embed(encoder, (draw(chunk, canvas_px) for chunk in chunks), device)


@torch.no_grad()
def pooled_features(encoder: Encoder, sketches: list[Sketch], canvas_px: int, device: torch.device) -> np.ndarray:
    """(n, features) float32: what the embedding head sees."""
    encoder.eval()
    parts = []
    for start in range(0, len(sketches), CHUNK):
        pictures = channels_last(draw(sketches[start : start + CHUNK], canvas_px)).to(device)
        parts.append(encoder.features(pictures).float().cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def embed_photos(
    encoder: nn.Module, photos: np.ndarray, px: int, device: torch.device, flip_average: bool
) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, dim) float32, L2-normalised; optionally the mean with the mirror image's."""
    chunks = [photos[start : start + CHUNK] for start in range(0, len(photos), CHUNK)]
    plain = _embed(encoder, (resize_photos(chunk, px) for chunk in chunks), device)
    if not flip_average:
        return plain
    mean = plain + _embed(encoder, (resize_photos(chunk, px).flip(3) for chunk in chunks), device)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _embed(encoder: nn.Module, batches: Iterator[Tensor], device: torch.device) -> np.ndarray:
    training = encoder.training
    encoder.eval()
    parts = [unit(encoder(channels_last(batch).to(device)).float()).cpu().numpy() for batch in batches]
    encoder.train(training)
    return np.concatenate(parts)


def accuracy_at_1(queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray | None = None) -> float:
    """Share of rows of `queries` whose own row of `gallery`, `truth` (n,) or the same, is the single nearest.

    Both are (rows, dim), L2-normalised.
    """
    similarity = queries @ gallery.T
    rows = np.arange(len(queries))
    right = similarity[rows, rows if truth is None else truth]
    return float(((similarity >= right[:, None]).sum(1) == 1).mean())


class TeacherStage(Stage):
    """Fine-tune on pairs: InfoNCE or a triplet loss between the embedding of a sketch and that of one of its photos."""

    name = "teacher"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings = task.config.stages.teacher
        self.steps = self.settings.steps
        self.fixed = freeze_first_stages(task.teacher, self.settings.frozen_stages)

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.task.teacher}

    def optimizers(self) -> list[OptimizerSpec]:
        teacher, settings = self.task.teacher, self.settings
        body = [parameter for parameter in teacher.network.parameters() if parameter.requires_grad]
        head_lr = settings.optimizer.lr * settings.head_lr_factor
        groups: list[dict[str, Any]] = [{"params": body}, {"params": list(teacher.head.parameters()), "lr": head_lr}]
        return [adamw(groups, **settings.optimizer.model_dump(), steps=self.steps)]

    def start(self, context: Context) -> None:
        self.rank, self.world_size = context.rank, context.world_size
        self._gather = context.gather

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        task, settings = self.task, self.settings
        own = task.split.train[self.rank :: self.world_size]  # no pair in two processes: it would be its own negative
        chosen = rng.choice(own, min(settings.batch, len(task.split.train) // self.world_size), replace=False)
        mirrored = rng.random(len(chosen)) < 0.5
        sketches = [
            vary(self._sketch(int(index), rng), rng, settings.sketch_strength, bool(flip))
            for index, flip in zip(chosen, mirrored, strict=True)
        ]
        photos = np.stack([self._photo(int(index), rng) for index in chosen])
        px = settings.canvas_px or task.config.teacher.canvas_px
        return {
            "sketches": draw(sketches, px),
            "photos": vary_photos(photos, px, rng, settings.photo_strength, mirrored),
        }

    def _sketch(self, index: int, rng: np.random.Generator) -> Sketch:
        """One of the pair's, by chance where there are several."""
        sketches = self.task.pairs.sketches(index)
        return sketches[rng.integers(len(sketches))] if len(sketches) > 1 else sketches[0]

    def _photo(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The gallery vendor's with probability `gallery_share`, else one of the other pictures of the pair."""
        pairs, gallery = self.task.pairs, self.task.gallery_vendor
        photos = pairs.photos(index)
        others = np.concatenate([np.delete(photos, gallery, axis=0), pairs.more_photos(index)])
        if not len(others) or rng.random() < self.settings.gallery_share:
            return photos[gallery]
        return others[rng.integers(len(others))]

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for part in self.fixed:
            part.eval()
        sketches, photos = batch["sketches"], batch["photos"]
        # One pass: batch norm sees both kinds together, as it will when either comes alone.
        pictures = channels_last(torch.cat([(1 - sketches).expand(-1, 3, -1, -1), photos]))
        embeddings = unit(modules["teacher"](pictures))
        query, key = (self._gather(part) for part in embeddings.split(len(sketches)))
        if self.settings.loss == "triplet":
            return {"loss": triplet_in_batch(query, key, self.settings.margin)}
        return {"loss": info_nce(query, key, self.settings.temperature)}

    def validate(self, context: Context) -> dict[str, float]:
        return {"acc@1": self.task.teacher_accuracy(self.task.split.validation, context.device)}


def view_seed(seed: int, index: int, view: int) -> np.random.Generator:
    """The generator of one view of one drawing: teacher and student draw the same picture from it."""
    return np.random.default_rng(entropy(seed, "view", index, view))


def views_of(
    sketches: list[Sketch], counts: Sequence[int], strength: float, seed: int
) -> tuple[list[Sketch], np.ndarray]:
    """`counts[i]` variations of sketch i, sketch by sketch, and whether each is mirrored (sum of counts,)."""
    views, mirrored = [], []
    for index, (sketch, count) in enumerate(zip(sketches, counts, strict=True)):
        for view in range(count):
            rng = view_seed(seed, index, view)
            flip = bool(rng.random() < 0.5)
            views.append(vary(sketch, rng, strength, flip))
            mirrored.append(flip)
    return views, np.array(mirrored)


def teacher_outputs(task: Task, context: Context, views: list[Sketch]) -> Mapping[str, np.ndarray]:
    """ "photos" (pairs, dim) of the gallery's vendor and "views" (n, dim), computed once and kept by their key."""
    config, teacher = task.config, task.teacher
    with_features = bool(config.stages.distill.loss.feature)
    key = {
        "kind": "sketch-targets",
        "revision": REVISION,
        "weights": weights_hash(teacher),
        "network": config.teacher.network,
        "data": task.pairs.hash,
        "split": config.data.model_dump(include={"fold", "by", "validation_share", "drawings"}),
        "more_drawings": [source.hash for source in task.more_sources],
        "vendor": task.gallery_vendor,
        "canvas_px": config.teacher.canvas_px,
        "flip_average": config.teacher.flip_average,
        "views": config.stages.targets.model_dump(exclude={"seed"}),
        "drawings": len(views),
        "features": with_features,
        "seed": task.view_seed,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }

    def compute() -> dict[str, np.ndarray]:
        device = context.device
        teacher.to(device)
        outputs = {"photos": task.teacher_gallery(np.arange(len(task.pairs)), device)}
        if not with_features:
            return outputs | {"views": embed_sketches(teacher, views, config.teacher.canvas_px, device)}
        features = pooled_features(teacher, views, config.teacher.canvas_px, device)
        with torch.no_grad():
            embeddings = unit(teacher.head(torch.from_numpy(features).to(device))).cpu().numpy()
        standard = (features - features.mean(0)) / (features.std(0) + 1e-6)
        return outputs | {"views": embeddings, "features": standard.astype(np.float16)}

    return context.cache.get(key, compute)
