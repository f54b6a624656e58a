"""Lip reading taught by a speech recogniser, after LIBS (Zhao et al., AAAI 2020).

Both are one kind of seq2seq model. The recogniser is trained on sound and then frozen; the reader is trained on
pictures of the same clips with terms of distillation. The metric is the character error rate, on sentences and
faces that neither has met.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from compressor.context import seed_globally
from compressor.data import fetch
from compressor.data.lips_clips import Clips
from compressor.data.source import read_manifest
from compressor.recipe import canonical_hash
from compressor.stage import Stage
from compressor.stage import Task as BaseTask
from compressor.tasks.lips.batches import mel_of
from compressor.tasks.lips.config import LipsConfig, ModelConfig
from compressor.tasks.lips.distill import DistillStage
from compressor.tasks.lips.encoders import AudioFrontEnd, BiGRU, CausalEncoder, VideoFrontEnd
from compressor.tasks.lips.networks import Decoder, Seq2Seq, greedy
from compressor.tasks.lips.teacher import TargetsStage, TeacherStage
from compressor.tasks.lips.vocabulary import Vocabulary, edit_distance, slot_is_right
from profiles.errors import RequestError
from profiles.storage import sha256_tree

if TYPE_CHECKING:
    from compressor.train import Context
    from targets.export import BundleWriter

CHUNK = 64  # clips of similar length that are encoded at once
PACKAGES = ("torch", "numpy", "lightning-fabric")


def load_clips(source: str, language: str, crop_px: tuple[int, int]) -> tuple[Clips, dict[str, Any]]:
    """The clips of a data source, of a directory of clips, or of a folder of videos, and what lineage says of them."""
    path = Path(source)
    if (path / "clips.json").is_file():
        about = {"data": {"name": path.name, "sha256": canonical_hash(sha256_tree(path))}, "credits": []}
        return _in_language(Clips(path), language, path), about
    if path.is_dir():
        from compressor.data.lips_video import prepare_videos

        directory, about = prepare_videos(path, *crop_px)
        return _in_language(Clips(directory), language, path), about
    directory = fetch(source)
    if not (directory / language / "clips.json").is_file():
        raise RequestError(f"data.source {source!r} has no clips in language {language!r}")
    manifest = read_manifest(directory)
    credits = [
        {key: package[key] for key in ("name", "version", "licence", "url", "note")} for package in manifest["packages"]
    ]
    return Clips(directory / language), {"data": {"name": source, "sha256": manifest["hash"]}, "credits": credits}


def _in_language(clips: Clips, language: str, path: Path) -> Clips:
    if clips.language != language:
        raise RequestError(f"{path} is in language {clips.language}: set data.language={clips.language}")
    return clips


class Task(BaseTask):
    """Clips, teacher, student, stages and metric. `train`, `validation`, `test` are the numbers of their clips;
    `texts` what each one says, as the student writes it; `tokens` the same as tokens."""

    Config: ClassVar[type[LipsConfig]] = LipsConfig
    config: LipsConfig

    def setup(self, context: Context) -> None:
        config = self.config
        self.context = context
        self.clips, self.about = load_clips(config.data.source, config.data.language, config.data.crop_px)
        clips = self.clips
        everything = clips.part("train")
        # Clips are in random order, so the first ones are a random share, and the same in every run.
        self.train = everything[: max(1, round(config.data.train_share * len(everything)))]
        self.validation, self.test = clips.part("validation"), clips.part("test")
        pinyin = config.data.text == "pinyin"
        if pinyin and not clips.pinyin:
            raise RequestError(f"data.text: pinyin: {config.data.source} does not say how its characters are read")
        self.texts = [clips.romanised(text) if pinyin else text for text in clips.texts]
        self.slots = [
            clips.romanised_slot(text, slot) if pinyin and slot else slot
            for text, slot in zip(clips.texts, clips.slots, strict=True)
        ]
        self.vocabulary = Vocabulary.of(self.texts)
        self.tokens = [self.vocabulary.tokens(text) for text in self.texts]
        longest = int(clips.frame_counts.max())
        if longest > config.deploy.max_frames:
            raise RequestError(f"deploy.max_frames {config.deploy.max_frames}: the longest clip has {longest} frames")
        if max(map(len, self.texts)) >= config.deploy.max_characters:
            raise RequestError(
                f"deploy.max_characters {config.deploy.max_characters}: the longest text has "
                f"{max(map(len, self.texts))}, and its end needs one more"
            )
        seed_globally(config.seed, "teacher")
        self.teacher = self._build_teacher()
        seed_globally(config.seed, "student")
        height_px, width_px = clips.all_frames.shape[1:]
        student = config.student
        front_end = VideoFrontEnd(
            student.stack, student.channels, student.first_stride, student.encoder.dim, height_px, width_px
        )
        self.student = self._build(student, front_end)
        self.student.front_end.to(memory_format=torch.channels_last)

    def _build(self, settings: ModelConfig, front_end: VideoFrontEnd | AudioFrontEnd) -> Seq2Seq:
        own, vocabulary = settings.encoder, len(self.vocabulary)
        encoder: BiGRU | CausalEncoder
        if own.kind == "bigru":
            encoder = BiGRU(own.dim, own.hidden, own.layers, settings.dropout)
        else:
            encoder = CausalEncoder(own.dim, own.dilations, settings.dropout)
        decoder = Decoder(
            vocabulary, settings.decoder.embedding, settings.decoder.hidden, encoder.dim, settings.dropout
        )
        return Seq2Seq(front_end, encoder, nn.Linear(encoder.dim, vocabulary), decoder)

    def _build_teacher(self) -> Seq2Seq:
        settings, clips = self.config.teacher, self.clips
        front_end = AudioFrontEnd(clips.all_mel.shape[1], settings.encoder.dim)
        sample = np.concatenate([np.asarray(clips.mel(int(index)), np.float32) for index in self.train[:500]])
        front_end.mean.copy_(torch.from_numpy(sample.mean(0)))
        front_end.std.copy_(torch.from_numpy(sample.std(0) + 1e-3))
        teacher = self._build(settings, front_end)
        if settings.weights is not None:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                teacher.load_state_dict(load_file(settings.weights))
            except (OSError, SafetensorError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise RequestError(
                    f"teacher.weights {settings.weights}: not this teacher's weights ({reason})"
                ) from None
        return teacher

    def stages(self) -> list[Stage]:
        return [TeacherStage(self), TargetsStage(self), DistillStage(self)]

    # --- reading ---

    @torch.no_grad()
    def read(
        self, model: Seq2Seq, inputs: Callable[[Clips, np.ndarray], tuple[Tensor, Tensor]], chosen: np.ndarray
    ) -> list[str]:
        """What a model makes of these clips, in their order; the best character at each step."""
        training, device = model.training, next(model.parameters()).device
        model.eval()
        order = np.argsort(self.clips.frame_counts[chosen], kind="stable")
        texts = [""] * len(chosen)
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            values, mask = inputs(self.clips, chosen[places])
            encoded = model.encode(values.to(device), mask.to(device))
            tokens, _, _ = greedy(model.decoder, encoded, self.config.deploy.max_characters)
            for place, row in zip(places, tokens.tolist(), strict=True):
                texts[place] = self.vocabulary.text(row)
        model.train(training)
        return texts

    def hear(self, chosen: np.ndarray) -> list[str]:
        """What the teacher makes of these clips' sound."""
        return self.read(self.teacher, mel_of, chosen)

    def scores(self, read: list[str], chosen: np.ndarray) -> dict[str, float]:
        """CER, and the shares of sentences and of hard words that are right."""
        truth = [self.texts[index] for index in chosen]
        errors = sum(edit_distance(a, b) for a, b in zip(read, truth, strict=True))
        found = {
            "cer": errors / sum(map(len, truth)),
            "sentence": float(np.mean([a == b for a, b in zip(read, truth, strict=True)])),
        }
        slots = [self.slots[index] for index in chosen]
        right = [slot_is_right(a, b, s) for a, b, s in zip(read, truth, slots, strict=True) if s is not None]
        return found | ({"slot": float(np.mean(right))} if right else {})

    def export(self, writer: BundleWriter) -> None:
        from compressor.tasks.lips.export import export

        export(self, writer)

    def describe(self) -> Mapping[str, Any]:
        """What the data was: for the bundle's lineage."""
        parts = {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        return {**self.about, "split": parts, "language": self.config.data.language, "versions": versions}
