"""Stages of the teacher: a speech recogniser is trained on noisy sound, then what it makes of the clean one is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compressor.cache import weights_hash
from compressor.ema import MovingAverage
from compressor.losses.sequence import lcs_pairs
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.lips.batches import mel_of, noisy_mel, pad, previous, similar_clips, targets
from compressor.tasks.lips.config import SequenceStageConfig
from compressor.tasks.lips.networks import Seq2Seq, greedy, seq2seq_loss
from compressor.tasks.lips.vocabulary import EDGE, FIRST

if TYPE_CHECKING:
    from compressor.tasks.lips.task import Task
    from compressor.train import Context, Trainer

CHUNK = 64
REVISION = 2  # of what is kept: part of the cache's key


class SequenceStage(Stage):
    """What training a seq2seq model on clips has in common: optimiser, texts of a batch, moving average."""

    def __init__(self, task: Task, settings: SequenceStageConfig, model: Seq2Seq) -> None:
        self.task, self.sequence_settings, self.model = task, settings, model
        self.steps = settings.steps
        self.average = MovingAverage(settings.ema) if settings.ema else None

    def optimizers(self) -> list[OptimizerSpec]:
        parameters = [parameter for module in self.modules().values() for parameter in module.parameters()]
        return [adamw(parameters, **self.sequence_settings.optimizer.model_dump(), steps=self.steps)]

    def start(self, context: Context) -> None:
        if self.average is not None:
            self.average.start(self.model)

    def choose(self, rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
        """Numbers of a batch's clips, of similar length."""
        train = self.task.train
        return train[similar_clips(lengths[train], self.sequence_settings.batch, rng)]

    def texts(self, chosen: np.ndarray, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """The characters to write, those before them, and where the model's own shall stand in their place."""
        settings = self.sequence_settings
        target = targets([self.task.tokens[index] for index in chosen])
        texts = {
            "target": target,
            "previous": previous(target, len(self.task.vocabulary), settings.random_characters, rng),
        }
        if settings.own_characters:
            share = settings.own_characters * step / max(1, self.steps - 1)
            texts["own"] = torch.from_numpy(rng.random(target.shape) < share)
        return texts

    def after_step(self, step: int) -> None:
        if self.average is not None:
            self.average.update(self.model)
            if step + 1 == self.steps:
                self.average.copy_to(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.average is None else {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])

    def averaged(self) -> contextlib.AbstractContextManager[Any]:
        """Within it the model has the averaged weights."""
        return self.average.in_place_of(self.model) if self.average is not None else contextlib.nullcontext()


class TeacherStage(SequenceStage):
    """Train the speech recogniser on log-mel with noise."""

    name = "teacher"

    def __init__(self, task: Task) -> None:
        super().__init__(task, task.config.stages.teacher, task.teacher)
        self.settings = task.config.stages.teacher

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher": self.task.teacher}

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        clips = self.task.clips
        chosen = self.choose(rng, clips.frame_counts)
        mel, mask = pad([noisy_mel(clips.mel(int(index)), rng, self.settings.noise) for index in chosen])
        return {"mel": mel, "mask": mask, **self.texts(chosen, step, rng)}

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        encoded, decoded, ctc = modules["teacher"](batch["mel"], batch["mask"], batch["previous"], batch.get("own"))
        return {"loss": seq2seq_loss(decoded, ctc, encoded.mask, batch["target"], self.settings.ctc)}

    def validate(self, context: Context) -> dict[str, float]:
        with self.averaged():
            return self.task.scores(self.task.hear(self.task.validation), self.task.validation)


class TargetsStage(Stage):
    """What the frozen teacher makes of the clean sound of the training part, in the cache on disk."""

    name = "targets"

    def __init__(self, task: Task) -> None:
        self.task = task

    def run(self, trainer: Trainer) -> None:
        teacher_outputs(self.task, trainer.context)


class Heard(NamedTuple):
    """Of one clip: the teacher's memory (v, dim), its last state (dim,), and for each character of the truth the
    context (characters, dim) and the attention (characters, v) with which the teacher wrote it, where it wrote it:
    `kept` (characters,). float16."""

    memory: np.ndarray
    last: np.ndarray
    contexts: np.ndarray
    attention: np.ndarray
    kept: np.ndarray


class Targets:
    """Of every training clip what the teacher made of it, see `Heard`."""

    def __init__(self, arrays: Mapping[str, np.ndarray], train: np.ndarray) -> None:
        self._arrays = arrays
        self._row = {int(index): row for row, index in enumerate(train)}
        counts = arrays["frames"], arrays["characters"], arrays["frames"] * arrays["characters"]
        self._ends = tuple(np.cumsum(own) for own in counts)

    def __getitem__(self, index: int) -> Heard:
        row, arrays = self._row[index], self._arrays
        frames, characters, pairs = (int(ends[row]) for ends in self._ends)
        shape = int(arrays["characters"][row]), int(arrays["frames"][row])
        of_characters = slice(characters - shape[0], characters)
        attention = arrays["attention"][pairs - shape[0] * shape[1] : pairs].reshape(shape)
        memory = arrays["memory"][frames - shape[1] : frames]
        contexts, kept = arrays["contexts"][of_characters], arrays["kept"][of_characters]
        return Heard(memory, arrays["last"][row], contexts, attention, kept)

    @property
    def dim(self) -> int:
        return int(self._arrays["last"].shape[1])


def teacher_outputs(task: Task, context: Context) -> Targets:
    """Computed once and kept by their key."""
    key = {
        "kind": "lips-targets",
        "revision": REVISION,
        "weights": weights_hash(task.teacher),
        "data": task.about["data"],
        "language": task.config.data.language,
        "text": task.config.data.text,
        "train": len(task.train),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return Targets(context.cache.get(key, lambda: _compute(task, context.device)), task.train)


@torch.no_grad()
def _compute(task: Task, device: torch.device) -> Iterator[dict[str, np.ndarray]]:
    """Chunks of clips, in the order of the training part."""
    teacher = task.teacher.to(device).eval()
    for start in range(0, len(task.train), CHUNK):
        chosen = task.train[start : start + CHUNK]
        mel, mask = mel_of(task.clips, chosen)
        encoded = teacher.encode(mel.to(device), mask.to(device))
        longest = max(len(task.tokens[index]) for index in chosen) + 5
        tokens, contexts, attention = (part.cpu().numpy() for part in greedy(teacher.decoder, encoded, longest))
        counts = encoded.mask.sum(1).cpu().numpy()
        memory = encoded.memory.cpu().numpy()
        written = np.concatenate([contexts, attention], axis=-1)
        aligned = [
            align(row, own, task.tokens[index])
            for row, own, index in zip(tokens.tolist(), written, chosen, strict=True)
        ]
        dim = contexts.shape[-1]
        yield {
            "memory": np.concatenate([own[:count] for own, count in zip(memory, counts, strict=True)]).astype("f2"),
            "frames": counts.astype(np.int64),
            "last": encoded.last.cpu().numpy().astype("f2"),
            "contexts": np.concatenate([part[:, :dim] for part, _ in aligned]).astype("f2"),
            "attention": np.concatenate(
                [part[:, dim : dim + count].ravel() for (part, _), count in zip(aligned, counts, strict=True)]
            ).astype("f2"),
            "kept": np.concatenate([part for _, part in aligned]),
            "characters": np.array([len(part) for part, _ in aligned], np.int64),
        }


def align(prediction: list[int], rows: np.ndarray, truth: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's rows (its characters, dim) brought to the characters of the truth: (characters, dim), zero where it
    did not write the character, and `kept` (characters,)."""
    written = [token for token in prediction if token >= FIRST and token != EDGE]
    aligned = np.zeros((len(truth), rows.shape[1]), np.float32)
    kept = np.zeros(len(truth), bool)
    for place, of_truth in lcs_pairs(written, truth):
        aligned[of_truth], kept[of_truth] = rows[place], True
    return aligned, kept
