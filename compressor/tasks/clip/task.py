"""A bilingual CLIP that fits a phone: a large teacher's image and text towers distilled into two small ones.

After DC-CLIP (2024). Pictures with English and Chinese captions; retrieval either way in each language, classification
by prompts. Stage 1 distils each tower's features, stage 2 aligns them on pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from compressor.context import seed_globally
from compressor.data.captions import CaptionDataset, load_captions
from compressor.data.pairs import Split
from compressor.data.words import words_of
from compressor.models.encoder import Encoder
from compressor.models.weights import load_weights
from compressor.stage import Stage, TargetsStage
from compressor.stage import Task as BaseTask
from compressor.tasks.clip.config import ClipConfig
from compressor.tasks.clip.metrics import ranks, recalls, unit_rows
from compressor.tasks.clip.stages import AlignmentStage, ImageFeatureStage, TeacherStage, TextFeatureStage, tokens_of
from compressor.tasks.clip.students import TextTower, build_image_tower
from compressor.tasks.clip.targets import PictureBank, Texts, composed_texts, make_tokenizer, read_texts, text_targets
from compressor.tasks.clip.teacher import AssembledTeacher, Teacher, build_teacher, in_chunks, load_module, through_head
from profiles.errors import RequestError
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from compressor.train import Context
    from targets.export import BundleWriter


class Task(BaseTask):
    """Pairs, teacher, student, stages and metric.

    data, split: things with pictures and captions, and their parts. corpus: texts without pictures by language. bank:
    pictures with views and the teacher's features, texts: captions, labels, corpus and texts composed of it, of each
    language as tokens with the teacher's features, text_targets: the teacher's embeddings of captions and labels; all
    three once `load_targets` was called. more_banks: pictures without captions, and more_things: which of them have a
    name that no held-out thing's label shares a word with.
    """

    Config: ClassVar[type[ClipConfig]] = ClipConfig
    config: ClipConfig
    data: CaptionDataset
    split: Split

    def setup(self, context: Context) -> None:
        config = self.config
        self.context = context
        self.data = load_captions(config.data.source, config.data.picture_px)
        self.split = self._complete(self.data.split(config.data.fold, config.data.validation_share))
        self.vendor = config.data.vendor or self.data.vendors[0]
        self.data.vendor([0], self.vendor)  # an unknown one is refused now, not after training
        pairs = read_texts(config.data.texts, config.data.texts_limit)
        self.corpus = {code: [pair[side] for pair in pairs if pair[side]] for side, code in enumerate(("en", "zh"))}
        seed_globally(config.seed, "teacher")
        self.teacher: Teacher = build_teacher(config)
        self.bank = PictureBank(config, self.data, self.teacher, context.cache)
        self.more_pictures = [load_captions(name, config.data.picture_px) for name in config.data.pictures]
        self.more_banks = [PictureBank(config, data, self.teacher, context.cache) for data in self.more_pictures]
        self.more_things = [data.without(self._held_words()) for data in self.more_pictures]
        for data, things in zip(self.more_pictures, self.more_things, strict=True):
            self.context.say(f"{data.name}: {len(things)} of {len(data)} pictures share no word with held-out labels")
        self.texts: dict[tuple[str, str], Texts] = {}
        self.text_targets: dict[tuple[str, str], np.ndarray] = {}
        self.tokenizer = make_tokenizer(config, self._tokenizer_texts(), context.cache, self.tokenizer_path)
        self._build_student()

    def _complete(self, split: Split) -> Split:
        """The split without things that lack a caption in one of the languages: batches compare all of them."""
        languages = self.data.languages
        if unknown := sorted(set(self.config.student.languages) - set(languages)):
            raise RequestError(f"student.languages has {unknown[0]}, but {self.data.name} has captions in {languages}")
        whole = np.array([all(self.data.label(i, code) for code in languages) for i in range(len(self.data))])
        if not whole.all():
            self.context.say(f"{(~whole).sum()} of {len(whole)} pairs lack a caption in one language and are left out")
        parts = [part[whole[part]] for part in (split.train, split.validation, split.test)]
        if not all(map(len, parts)):
            raise RequestError(f"{self.data.name}: too few pairs have captions in all of {', '.join(languages)}")
        return Split(*parts)

    def _build_student(self) -> None:
        student = self.config.student
        seed_globally(self.config.seed, "student")
        network = self.teacher.encoder if isinstance(self.teacher, AssembledTeacher) else None
        image, text = student.image, student.text
        self.image_tower: Encoder = build_image_tower(
            image.network, self.teacher.embedding_dim, image.px, image.macs_ratio, network
        ).requires_grad_(True)
        if image.weights is not None:
            load_weights(self.image_tower, image.network, image.weights)
        self.image_tower = self.image_tower.to(memory_format=torch.channels_last)
        self.text_tower = TextTower(
            len(self.tokenizer),
            text.length,
            text.token_width,
            text.width,
            text.hidden,
            text.layers,
            text.heads,
            self.teacher.embedding_dim,
        )
        if text.weights is not None:
            load_module(self.text_tower, text.weights)

    def _tokenizer_texts(self) -> list[str]:
        """The corpus, or without one the training captions, in all languages whatever the student learns."""
        if any(self.corpus.values()):
            # As much of each language, whatever there is of it.
            count = min(len(own) for own in self.corpus.values() if own)
            chosen = [[own[i] for i in evenly_spread(len(own), count)] for own in self.corpus.values() if own]
            return [text for group in zip(*chosen, strict=True) for text in group]
        return [self.data.caption(int(i), code) for i in self.split.train for code in self.data.languages]

    def _held_words(self) -> frozenset[str]:
        held = np.concatenate([self.split.validation, self.split.test])
        code = "en" if "en" in self.data.languages else self.data.languages[0]
        return words_of(self.data.label(int(index), code) for index in held)

    @property
    def tokenizer_path(self) -> Path:
        self.context.run_dir.mkdir(parents=True, exist_ok=True)
        return self.context.run_dir / f"tokenizer-{self.context.rank}.json"

    # --- targets ---

    def load_targets(self, context: Context) -> None:
        """Features once; embeddings by the teacher's heads as they are now, so after each stage that changes them."""
        if not self.texts:
            for bank in (self.bank, *self.more_banks):
                bank.load(context.device)
            length = self.config.student.text.length
            read = functools.partial(text_targets, self.tokenizer, length, self.teacher, context.cache, context.device)
            for code in self.data.languages:
                corpus = read(self.corpus[code])
                composed = composed_texts(
                    self.corpus[code], corpus.features, self.config.data.composed, self.teacher, context.cache
                )
                self.texts |= {
                    (code, "caption"): read([self.data.caption(i, code) for i in range(len(self.data))]),
                    (code, "label"): read([self.data.label(i, code) for i in range(len(self.data))]),
                    (code, "corpus"): corpus,
                    (code, "composed"): read(composed),
                }
        for bank in (self.bank, *self.more_banks):
            bank.embed(self.teacher.image_head)
        self.text_targets = {
            key: through_head(self.teacher.text_head, own.features)
            for key, own in self.texts.items()
            if key[1] in ("caption", "label")
        }

    def stages(self) -> list[Stage]:
        stages = self.config.stages
        chosen: list[Stage] = [TeacherStage(self)] if stages.teacher.steps else []
        chosen.append(TargetsStage(self))
        if stages.text_pretraining.steps and any(self.corpus[code] for code in self.config.student.languages):
            chosen.append(TextFeatureStage(self, "text_pretraining"))
        chosen += [ImageFeatureStage(self)] if stages.image_features.steps else []
        chosen += [TextFeatureStage(self)] if stages.text_features.steps else []
        chosen += [AlignmentStage(self)] if stages.alignment.steps else []
        return chosen

    # --- metrics ---

    def gallery_pictures(self, things: np.ndarray) -> np.ndarray:
        """Where in the bank the pictures stand that are searched."""
        return self.bank.first[things] + self.data.vendors.index(self.vendor)

    def teacher_metrics(self, things: np.ndarray) -> dict[str, float]:
        """The teacher's own retrieval on these things, picture side and text side."""
        image = through_head(self.teacher.image_head, self.bank.features[0][self.gallery_pictures(things)])
        found: dict[str, float] = {}
        for code in self.data.languages:
            text = through_head(self.teacher.text_head, self.texts[code, "caption"].features[things])
            found |= recalls(code, ranks(text, image))
        return {**found, "R@10": float(np.mean([found[f"{code} R@10"] for code in self.data.languages]))}

    def student_metrics(self, things: np.ndarray, device: torch.device) -> dict[str, float]:
        image = self._embed(self.image_tower, device, things, lambda own: {"picture": self.gallery_images(own)})
        found: dict[str, float] = {}
        for code in self.data.languages:
            texts = self.texts[code, "caption"]
            text = self._embed(self.text_tower, device, things, functools.partial(tokens_of, texts))
            found |= recalls(code, ranks(text, image))
        return {**found, "R@10": float(np.mean([found[f"{code} R@10"] for code in self.data.languages]))}

    def gallery_images(self, things: np.ndarray) -> torch.Tensor:
        """(n, 3, px, px) in [0, 1]: what the image tower gets of these things' searched pictures."""
        small = self.bank.small[0][self.gallery_pictures(things)]
        return torch.from_numpy(np.array(small)).permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def _embed(
        self,
        tower: nn.Module,
        device: torch.device,
        things: np.ndarray,
        inputs: Callable[[np.ndarray], Mapping[str, torch.Tensor]],
    ) -> np.ndarray:
        training = tower.training
        tower.to(device).eval()
        rows = in_chunks(
            lambda own: tower(*(value.to(device) for value in inputs(own).values())).float().cpu().numpy(), things
        )
        tower.train(training)
        return unit_rows(rows)

    def export(self, writer: BundleWriter) -> None:
        from compressor.tasks.clip.export import export

        self.load_targets(self.context)  # a run that was resumed behind its last stage has not started any
        export(self, writer)
