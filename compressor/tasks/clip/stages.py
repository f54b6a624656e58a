"""The stages: the teacher's heads, its outputs, stage 1 (features of each tower), stage 2 (alignment)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.context import seed_globally
from compressor.losses.alignment import cross_modal_kl, multilingual_info_nce
from compressor.losses.feature import feature_smooth_l1
from compressor.models.encoder import unit
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.clip.config import FeatureStageConfig
from compressor.tasks.clip.views import jitter

if TYPE_CHECKING:
    from compressor.tasks.clip.targets import Texts
    from compressor.tasks.clip.task import Task
    from compressor.train import Context


GROUPS = 4  # of a batch's texts, by length: most are words, and padding costs as much as text


class _ClipStage(Stage):
    """What the stages share: targets are there before the first step, and no thing is in two processes' batches."""

    settings: Any

    def __init__(self, task: Task) -> None:
        self.task = task
        self.steps = self.settings.steps

    def start(self, context: Context) -> None:
        self.task.load_targets(context)
        self.gather = context.gather
        self.own = self.task.split.train[context.rank :: context.world_size]
        # every process takes as many, so that their rows can be gathered
        self.most = len(self.task.split.train) // context.world_size

    def optimizers(self) -> list[OptimizerSpec]:
        parameters = [parameter for module in self.modules().values() for parameter in module.parameters()]
        return [adamw(parameters, **self.settings.optimizer.model_dump(), steps=self.steps)]

    def things(self, rng: np.random.Generator) -> np.ndarray:
        """Different things: one that came twice would be its own negative."""
        return rng.choice(self.own, min(self.settings.batch, self.most), replace=False)

    def images(self, small: Tensor, rng: np.random.Generator) -> Tensor:
        """(n, px, px, 3) uint8 -> (n, 3, px, px) in [0, 1], moved a little."""
        pictures = small.permute(0, 3, 1, 2).float() / 255
        return jitter(pictures, rng, self.settings.jitter_px).contiguous(memory_format=torch.channels_last)


def tokens_of(texts: Texts, rows: np.ndarray) -> dict[str, Tensor]:
    return {"ids": torch.from_numpy(texts.ids[rows]), "mask": torch.from_numpy(texts.mask[rows])}


def by_length(module: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """What a module gives of texts, a tensor or several, computed in GROUPS of texts of like length, as wide as the
    longest of each: the same rows in the same order, without most of the padding (which has e^-12 of the attention)."""
    lengths = mask.sum(1).int()
    order = torch.argsort(lengths)
    found = []
    for rows in order.chunk(GROUPS):
        longest = int(lengths[rows].max())
        given = module(ids[rows, :longest], mask[rows, :longest])
        found.append(given if isinstance(given, tuple) else (given,))
    back = torch.argsort(order)
    return tuple(torch.cat(parts)[back] for parts in zip(*found, strict=True))


class TeacherStage(_ClipStage):
    """The assembled teacher's heads: InfoNCE on the features of its frozen backbones, in all languages of the data."""

    name = "teacher"

    def __init__(self, task: Task) -> None:
        self.settings = task.config.stages.teacher
        super().__init__(task)

    def modules(self) -> dict[str, nn.Module]:
        return {"teacher_image_head": self.task.teacher.image_head, "teacher_text_head": self.task.teacher.text_head}

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Any]:
        things = self.things(rng)
        pictures, views = self.task.bank.choose(things, rng)
        return {
            "image": torch.from_numpy(self.task.bank.features_of(pictures, views)),
            "texts": [
                torch.from_numpy(self.task.texts[language, "caption"].features[things])
                for language in self.task.data.languages
            ],
        }

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Any]) -> dict[str, Tensor]:
        image = self.gather(unit(modules["teacher_image_head"](batch["image"])))
        count = len(batch["texts"][0])
        rows = unit(modules["teacher_text_head"](torch.cat(batch["texts"])))
        texts = [self.gather(part) for part in rows.split(count)]
        return {"loss": multilingual_info_nce(image, texts, self.settings.temperature)}

    def validate(self, context: Context) -> dict[str, float]:
        return self.task.teacher_metrics(self.task.split.validation)


class Adapted(nn.Module):
    """A tower with a linear adapter (a 1x1 convolution on pooled features) to the teacher's features."""

    def __init__(self, tower: nn.Module, width: int, teacher_width: int) -> None:
        super().__init__()
        self.tower = tower
        self.adapter = nn.Linear(width, teacher_width)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's embedding and the adapted features."""
        features: Tensor = self.tower.features(*inputs)  # type: ignore[operator]
        return self.tower.head(features), self.adapter(features)  # type: ignore[operator]


class _FeatureStage(_ClipStage):
    """Stage 1 of one tower. Feature targets are normalised row by row, so that each dimension deviates by about 1."""

    settings: FeatureStageConfig
    module: Adapted

    def adapted(self, tower: nn.Module, teacher_width: int) -> Adapted:
        seed_globally(self.task.config.seed, self.name)
        return Adapted(tower, tower.head.in_features, teacher_width)  # type: ignore[union-attr, arg-type]

    def modules(self) -> dict[str, nn.Module]:
        return {self.name: self.module}

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Any]) -> dict[str, Tensor]:
        settings = self.settings
        embedding, adapted = self.outputs(modules[self.name], batch["inputs"])
        target = functional.layer_norm(batch["features"].float(), batch["features"].shape[-1:])
        scale = embedding.shape[-1] ** 0.5  # a unit vector's coordinates deviate by 1 / scale
        terms = {
            "feature": settings.feature * feature_smooth_l1(adapted, target, settings.beta),
            "embedding": settings.embedding * feature_smooth_l1(embedding, batch["embedding"] * scale, settings.beta),
        }
        return {"loss": terms["feature"] + terms["embedding"]} | {name: term.detach() for name, term in terms.items()}

    def outputs(self, module: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Embeddings and adapted features of a batch's inputs."""
        return module(*inputs)

    def validate(self, context: Context) -> dict[str, float]:
        return self.task.student_metrics(self.task.split.validation, context.device)


class ImageFeatureStage(_FeatureStage):
    """`pictures_share` of a batch have no captions and show nothing that is held out, as far as their names tell."""

    name = "image_features"

    def __init__(self, task: Task) -> None:
        self.settings = task.config.stages.image_features
        super().__init__(task)
        self.module = self.adapted(task.image_tower, task.teacher.image_width)

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Any]:
        task, settings = self.task, self.settings
        further = [own for own in zip(task.more_banks, task.more_things, strict=True) if len(own[1])]
        more = round(settings.batch * settings.pictures_share) if further else 0
        counts = [settings.batch - more, *(len(part) for part in np.array_split(range(more), max(len(further), 1)))]
        parts = []
        for (bank, things), count in zip([(task.bank, self.own), *further], counts, strict=False):
            if not count:
                continue
            pictures, views = bank.choose(rng.choice(things, count), rng)
            kinds = (bank.small_of, bank.features_of, bank.embeddings_of)
            parts.append([torch.from_numpy(kind(pictures, views)) for kind in kinds])
        small, features, embedding = (torch.cat(own) for own in zip(*parts, strict=True))
        return {"inputs": [self.images(small, rng)], "features": features, "embedding": embedding}


class TextFeatureStage(_FeatureStage):
    """Reads text without pictures too: `captions_share` of a batch are captions and labels of the training things.
    `name` is also that of its settings: "text_features", or "text_pretraining", which no fold changes."""

    def __init__(self, task: Task, name: str = "text_features") -> None:
        self.name, self.settings = name, getattr(task.config.stages, name)
        alone = name == "text_pretraining"  # which languages without such text have no part in
        self.languages = [code for code in task.config.student.languages if task.corpus[code] or not alone]
        super().__init__(task)
        self.module = self.adapted(task.text_tower, task.teacher.text_width)

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Any]:
        task, settings = self.task, self.settings
        parts = []
        for language in self.languages:
            composed = settings.composed_share if len(task.texts[language, "composed"].ids) else 0.0
            corpus = 1 - settings.captions_share if task.corpus[language] else 0.0
            shares = {"corpus": corpus * (1 - composed), "composed": corpus * composed}
            shares |= {kind: (1 - corpus) / 2 for kind in ("caption", "label")}
            for kind, share in shares.items():
                count = round(settings.batch * share / len(self.languages))
                texts = task.texts[language, kind]
                own = self.own if kind in ("caption", "label") else np.arange(len(texts.ids))
                parts += [(texts, rng.choice(own, count))] if count else []
        tokens = [tokens_of(texts, rows) for texts, rows in parts]
        features = torch.cat([torch.from_numpy(texts.features[rows]) for texts, rows in parts])
        inputs = [torch.cat([own[name] for own in tokens]) for name in ("ids", "mask")]
        return {"inputs": inputs, "features": features}

    def outputs(self, module: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        return by_length(module, *inputs)

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Any]) -> dict[str, Tensor]:
        with torch.no_grad():
            head = self.task.teacher.text_head.eval().to(batch["features"].device)
            embedding = unit(head(batch["features"]))
        return super().loss(modules, {**batch, "embedding": embedding})


class AlignmentStage(_ClipStage):
    """Stage 2: InfoNCE of pictures and captions in each language; with `distil`, the teacher's similarities too."""

    name = "alignment"

    def __init__(self, task: Task) -> None:
        self.settings = task.config.stages.alignment
        super().__init__(task)

    def modules(self) -> dict[str, nn.Module]:
        return {"image_tower": self.task.image_tower, "text_tower": self.task.text_tower}

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Any]:
        task, things = self.task, self.things(rng)
        pictures, views = task.bank.choose(things, rng)
        kind = "label" if rng.random() < self.settings.label_share else "caption"
        texts = {language: task.texts[language, kind] for language in task.config.student.languages}
        return {
            "image": self.images(torch.from_numpy(task.bank.small_of(pictures, views)), rng),
            "tokens": [tokens_of(own, things) for own in texts.values()],
            "teacher_image": torch.from_numpy(task.bank.embeddings_of(pictures, views)),
            "teacher_texts": [torch.from_numpy(task.text_targets[language, kind][things]) for language in texts],
        }

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Any]) -> dict[str, Tensor]:
        settings = self.settings
        image = self.gather(unit(modules["image_tower"](batch["image"])))
        tokens = batch["tokens"]
        joined = [torch.cat([own[name] for own in tokens]) for name in ("ids", "mask")]
        rows = unit(by_length(modules["text_tower"], *joined)[0])
        texts = [self.gather(part) for part in rows.split(len(batch["image"]))]
        terms = {"info_nce": multilingual_info_nce(image, texts, settings.temperature)}
        if settings.distil:
            teacher_texts = [self.gather(part) for part in batch["teacher_texts"]]
            teacher_image = self.gather(batch["teacher_image"])
            kl = cross_modal_kl(image, texts, teacher_image, teacher_texts, settings.temperature)
            terms["distil"] = settings.distil * kl
        return {"loss": torch.stack(list(terms.values())).sum()} | {name: term.detach() for name, term in terms.items()}

    def validate(self, context: Context) -> dict[str, float]:
        return self.task.student_metrics(self.task.split.validation, context.device)
