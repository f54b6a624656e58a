"""The student's stage: reading lips, with what the recogniser heard as its guide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.context import seed_globally
from compressor.losses.sequence import (
    attention_distance,
    context_distance,
    frame_distance,
    resampled,
    scheduled,
    sequence_distance,
)
from compressor.tasks.lips.batches import frames_of, pad, varied_frames
from compressor.tasks.lips.networks import seq2seq_loss
from compressor.tasks.lips.teacher import Heard, SequenceStage, teacher_outputs

if TYPE_CHECKING:
    from compressor.tasks.lips.task import Task
    from compressor.train import Context

TERMS = ("sequence", "context", "frame", "attention")


class Maps(nn.Module):
    """The linear maps t from the student's width to the teacher's, one per term."""

    def __init__(self, terms: Iterable[str], width: int, teacher_width: int) -> None:
        super().__init__()
        self.linear = nn.ModuleDict({name: nn.Linear(width, teacher_width) for name in terms})

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The student's side of every term, by its name."""
        return {name: linear(inputs[name]) for name, linear in self.linear.items()}


class DistillStage(SequenceStage):
    """L = L_base + lambda_1 KD_sequence + lambda_2 KD_context + lambda_3 KD_frame, the weights on a schedule.

    A linear map per term takes the student's side to the teacher's width; they are thrown away after training. Terms
    whose weight is zero, or has become zero, are not computed.
    """

    name = "distill"

    def __init__(self, task: Task) -> None:
        super().__init__(task, task.config.stages.distill, task.student)
        self.settings = task.config.stages.distill
        loss = self.settings.loss
        self.terms = {name: getattr(loss, name) for name in TERMS if getattr(loss, name)}
        seed_globally(task.config.seed, "maps")
        width, teacher_width = task.student.encoder.dim, task.teacher.encoder.dim
        self.maps = Maps([name for name in self.terms if name != "attention"], width, teacher_width)

    def modules(self) -> dict[str, nn.Module]:
        student: dict[str, nn.Module] = {"student": self.task.student}
        return {**student, "maps": self.maps} if self.terms else student

    def start(self, context: Context) -> None:
        super().start(context)
        if self.terms:
            self.targets = teacher_outputs(self.task, context)
        self.task.teacher.requires_grad_(False)

    def weights(self, step: int) -> dict[str, float]:
        """Of the terms at this step, without those that are zero."""
        loss = self.settings.loss
        progress = step / max(1.0, loss.until * self.steps)
        now = {name: scheduled(weight, loss.schedule, progress) for name, weight in self.terms.items()}
        return {name: weight for name, weight in now.items() if weight > 0}

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Any]:
        clips = self.task.clips
        chosen = self.choose(rng, clips.frame_counts)
        frames, mask = pad([varied_frames(clips.frames(int(i)), rng, self.settings.augment) for i in chosen])
        batch: dict[str, Any] = {"frames": frames, "mask": mask, **self.texts(chosen, step, rng)}
        weights = self.weights(step)
        batch["weights"] = torch.tensor([weights.get(name, 0.0) for name in TERMS])
        if weights:
            heard = [self.targets[int(index)] for index in chosen]
            batch["memory"], batch["memory_mask"] = pad([own.memory for own in heard])
            batch["last"] = torch.from_numpy(np.stack([own.last for own in heard]).astype(np.float32))
            batch["contexts"], _ = pad([own.contexts for own in heard])
            batch["kept"] = pad([own.kept[:, None] for own in heard])[0][..., 0] > 0
            if "attention" in self.terms:
                batch["attention"] = self._attention(heard, clips.frame_counts[chosen])
        return batch

    def _attention(self, heard: list[Heard], counts: np.ndarray) -> Tensor:
        """Where the teacher looked, at the pictures' rate and in their time: (n, characters, frames)."""
        delay = self.settings.loss.attention_delay
        rows = [resampled(own.attention, int(count), delay).T for own, count in zip(heard, counts, strict=True)]
        characters = max(row.shape[1] for row in rows)
        wide = [np.pad(row, ((0, 0), (0, characters - row.shape[1]))) for row in rows]
        return pad(wide)[0].transpose(1, 2)

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        encoded, decoded, ctc = modules["student"](batch["frames"], batch["mask"], batch["previous"], batch.get("own"))
        base = seq2seq_loss(decoded, ctc, encoded.mask, batch["target"], self.settings.ctc)
        losses = {"loss": base, "base": base.detach()}
        if "memory" not in batch:
            return losses
        characters = batch["contexts"].shape[1]
        contexts = decoded.contexts[:, :characters]
        mapped = modules["maps"](sequence=encoded.last, context=contexts, frame=encoded.memory)
        mapped["attention"] = decoded.attention[:, :characters]
        distances = {
            "attention": lambda own: attention_distance(own, batch["attention"], batch["kept"]),
            "sequence": lambda own: sequence_distance(own, batch["last"]),
            "context": lambda own: context_distance(own, batch["contexts"], batch["kept"]),
            "frame": lambda own: frame_distance(
                own, batch["memory"], encoded.mask, batch["memory_mask"], self.settings.loss.frame_window
            ),
        }
        for name, weight in zip(TERMS, batch["weights"], strict=True):
            if name in self.terms:
                value = distances[name](mapped[name])
                losses["loss"] = losses["loss"] + weight * value
                losses[name] = value.detach()
        return losses

    def validate(self, context: Context) -> dict[str, float]:
        with self.averaged():
            read = self.task.read(self.task.student, frames_of, self.task.validation)
            return self.task.scores(read, self.task.validation)
