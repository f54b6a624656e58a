"""The video teacher: trained on the pairs' clips, or taken from transformers; then frozen, its outputs cached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.cache import weights_hash
from compressor.context import seed_globally
from compressor.losses.contrastive import info_nce
from compressor.models.clip_net import ClipNet
from compressor.models.encoder import unit
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.imu.config import ImuConfig, TeacherConfig
from profiles.errors import RequestError, require

if TYPE_CHECKING:
    from compressor.tasks.imu.task import Task
    from compressor.train import Context

CHUNK = 128
REVISION = 1  # of how outputs are computed: part of the cache's key
TRANSFORMERS = "transformers:"


class VideoTransformer(nn.Module):
    """A VideoMAE or TimeSformer of transformers as it comes, frozen: clips -> mean of its last tokens.

    Clips are (n, frames, px, px), grey in [0, 1], or (n, frames, px, px, 3), RGB. They are resized to what the network
    takes, frames are drawn evenly, and colours normalised as its configuration of preprocessing says (else ImageNet's).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 1, 3, 1, 1), persistent=False)

    @classmethod
    def load(cls, place: str) -> VideoTransformer:
        """From a directory or a name in transformers' cache. Raises RequestError where there is none."""
        transformers = require("transformers", "clip")
        try:
            network = transformers.AutoModel.from_pretrained(place)
        except (OSError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise RequestError(f"teacher.network {TRANSFORMERS}{place}: {line}") from None
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(place)
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        except (OSError, ValueError):  # a directory with the network alone
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return cls(network, mean, std)

    def train(self, mode: bool = True) -> VideoTransformer:
        """Frozen: it stays in evaluation mode."""
        return super().train(False)

    def forward(self, clips: Tensor) -> Tensor:
        config: Any = self.network.config
        frames, px = config.num_frames, config.image_size
        chosen = torch.linspace(0, clips.shape[1] - 1, frames, device=clips.device).round().long()
        clips = clips[:, chosen]
        clips = clips[:, :, None].expand(-1, -1, 3, -1, -1) if clips.ndim == 4 else clips.movedim(-1, 2)
        count = len(clips)
        flat = functional.interpolate(clips.flatten(0, 1), (px, px), mode="bilinear", antialias=True)
        pixels = (flat.unflatten(0, (count, frames)) - self.mean) / self.std
        return self.network(pixel_values=pixels).last_hidden_state.mean(1)


def build_teacher(settings: TeacherConfig, px: int) -> nn.Module:
    """With fresh weights (clip-net) or pretrained ones. Raises RequestError for an unknown name."""
    if settings.network == "clip-net":
        if px % 16:
            raise RequestError(f"teacher.network clip-net takes clips whose side is a multiple of 16 px, not {px} px")
        return ClipNet(px, settings.embedding_dim)
    if settings.network.startswith(TRANSFORMERS):
        return VideoTransformer.load(settings.network.removeprefix(TRANSFORMERS))
    raise RequestError(
        f"teacher.network {settings.network!r}: unknown; "
        f"use clip-net, or {TRANSFORMERS}PATH of a VideoMAE or TimeSformer"
    )


def to_clips(video: np.ndarray) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return torch.from_numpy(np.array(video)).float() / 255


def trains_teacher(config: ImuConfig) -> bool:
    """Not one of transformers', nor the random control, nor one that comes trained."""
    teacher = config.teacher
    return bool(config.stages.teacher.steps) and teacher.network == "clip-net" and not teacher.frozen_random


class TeacherStage(Stage):
    """Clip identity and time contrast: see TeacherStageConfig."""

    name = "teacher"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings = task.config.stages.teacher
        self.steps = self.settings.steps
        names, self.identity = np.unique(task.pairs.clip, return_inverse=True)
        seed_globally(task.config.seed, "clip-classifier")
        self.classifier = nn.Linear(task.config.teacher.embedding_dim, len(names))

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.task.teacher, "classifier": self.classifier}

    def optimizers(self) -> list[OptimizerSpec]:
        parameters = [parameter for module in self.modules().values() for parameter in module.parameters()]
        return [adamw(parameters, **self.settings.optimizer.over(self.steps))]

    def start(self, context: Context) -> None:
        self.rank, self.world_size, self._gather = context.rank, context.world_size, context.gather

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        own = self.task.train_pairs[self.rank :: self.world_size]
        chosen = np.sort(rng.choice(own, min(self.settings.batch, len(own)), replace=False))
        clips = to_clips(self.task.pairs.video[chosen])
        mirrored = rng.random(len(chosen)) < 0.5
        views = torch.cat([move_clips(clips, rng, mirrored) for _ in range(2)])
        return {"views": views, "identity": torch.from_numpy(self.identity[chosen])}

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        settings = self.settings
        embeddings = modules["teacher"](batch["views"])
        scores = modules["classifier"](torch.relu(embeddings))
        identity = functional.cross_entropy(scores, batch["identity"].repeat(2), label_smoothing=0.1)
        one, two = (self._gather(part) for part in unit(embeddings).chunk(2))
        contrast = info_nce(one, two, settings.temperature)
        total = settings.identity * identity + settings.contrast * contrast
        return {"loss": total, "identity": identity.detach(), "contrast": contrast.detach()}


def move_clips(clips: Tensor, rng: np.random.Generator, mirrored: np.ndarray) -> Tensor:
    """Shift by up to a tenth, scale by up to a fifth, mirror where (n,) says so, and add noise: all frames alike."""
    count = len(clips)
    theta = np.zeros((count, 2, 3), np.float32)
    scale = np.exp(rng.uniform(-0.2, 0.2, count))
    theta[:, 0, 0], theta[:, 1, 1] = np.where(mirrored, -scale, scale), scale
    theta[:, :, 2] = rng.uniform(-0.2, 0.2, (count, 2))
    grid = functional.affine_grid(torch.from_numpy(theta), list(clips.shape), align_corners=False)
    moved = functional.grid_sample(clips, grid, align_corners=False)
    return moved + 0.05 * torch.from_numpy(rng.standard_normal(tuple(moved.shape), dtype=np.float32))


def teacher_outputs(task: Task, context: Context) -> np.ndarray:
    """(pairs, dim) float32, L2-normalised; computed once and kept by its key."""
    teacher = task.teacher
    key = {
        "kind": "imu-targets",
        "revision": REVISION,
        "weights": weights_hash(teacher),
        "network": task.config.teacher.network,
        "data": task.pairs_hash,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }

    def compute() -> Iterator[dict[str, np.ndarray]]:
        teacher.to(context.device).eval()
        for start in range(0, len(task.pairs), CHUNK):
            with torch.no_grad():
                clips = to_clips(task.pairs.video[start : start + CHUNK]).to(context.device)
                yield {"embeddings": unit(teacher(clips).float()).cpu().numpy()}

    return context.cache.get(key, compute)["embeddings"]
