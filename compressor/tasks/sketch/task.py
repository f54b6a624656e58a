"""Fine-grained sketch-based image retrieval: a photo network teaches a small network for small canvases.

After "Sketch Down the FLOPs" (CVPR 2025), SketchyNetV1. The query is a vector sketch, the gallery are photos, one of
which is right; the metric is acc@1. SketchyNetV2's canvas selector is a further stage, where the recipe asks for one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from compressor.context import seed_globally
from compressor.data.pairs import PairDataset, Split, load_pairs
from compressor.data.sketch import Sketch
from compressor.data.words import words_of
from compressor.models.encoder import Encoder, build_encoder
from compressor.models.weights import load_weights
from compressor.quantise_aware import QuantiseAware
from compressor.stage import Stage, TargetsStage
from compressor.stage import Task as BaseTask
from compressor.tasks.sketch.config import SketchConfig
from compressor.tasks.sketch.distill import DistillStage
from compressor.tasks.sketch.selector.cascade import selector_stage
from compressor.tasks.sketch.selector.stage import SelectorStage
from compressor.tasks.sketch.teacher import (
    TeacherStage,
    accuracy_at_1,
    embed_photos,
    embed_sketches,
    teacher_outputs,
    views_of,
)
from compressor.tasks.sketch.views import resize_pixels
from profiles.errors import RequestError

if TYPE_CHECKING:
    from compressor.train import Context
    from targets.export import BundleWriter


def unseen(pairs: PairDataset, split: Split) -> Split:
    """The split without variants: none of a validation or test pair in training, none of a test pair in validation."""
    concepts = np.array([pairs.concept(index) for index in range(len(pairs))])
    validation = split.validation[~np.isin(concepts[split.validation], concepts[split.test])]
    held = np.concatenate([concepts[split.validation], concepts[split.test]])
    train = split.train[~np.isin(concepts[split.train], held)]
    if not len(train) or not len(validation):
        raise RequestError(f"{pairs.name}: {len(pairs)} pairs leave nothing to train on or to validate with")
    return Split(train=train, validation=validation, test=split.test)


class Task(BaseTask):
    """Pairs, teacher, student, stages and metric.

    pairs, split: the data and its parts by concept. sketches: one of each pair, in order. drawings: what the student
    learns from, the training pairs' sketches first, `paired` of them. views: variations of each drawing, one after the
    other; `view_offsets[d]:view_offsets[d + 1]` are those of training pair d, of all its sketches, then those of each
    drawing without a photo; mirrored (n,). targets: the teacher's "photos" (pairs, dim), "views"
    (n, dim) and, where a loss needs them, "features" (n, features), once `load_targets` was called.
    """

    Config: ClassVar[type[SketchConfig]] = SketchConfig
    config: SketchConfig
    pairs: PairDataset
    split: Split

    def setup(self, context: Context) -> None:
        config = self.config
        self.context = context
        self.pairs = load_pairs(config.data.source)
        self.split = unseen(
            self.pairs, self.pairs.split(config.data.fold, config.data.validation_share, config.data.by)
        )
        self.gallery_vendor = self._vendor_index()
        self.sketches: list[Sketch] = [self.pairs.sketch(index) for index in range(len(self.pairs))]
        self.drawings, self.owner = self.pairs.queries(self.split.train)
        self.paired = len(self.drawings)
        if config.data.drawings:
            self.drawings += self.pairs.drawings(self.split)
        self.drawings += self._more_drawings()
        self.targets: Mapping[str, np.ndarray] = {}
        self.views: list[Sketch] = []
        self.teacher = self._build_teacher()
        self._student: Encoder | None = None
        if config.student.network != "pruned-teacher":
            seed_globally(config.seed, "student")
            self._student = self._build_student()

    def _more_drawings(self) -> list[Sketch]:
        held = np.concatenate([self.split.validation, self.split.test])
        words = words_of(self.pairs.label(int(index)) for index in held)
        self.more_sources = [load_pairs(name) for name in self.config.data.more_drawings]
        return [sketch for source in self.more_sources for sketch in source.drawings_without(words)]

    def _vendor_index(self) -> int:
        name, vendors = self.config.data.gallery_vendor, self.pairs.vendors
        if name is None:
            return 0
        if name not in vendors:
            raise RequestError(f"data.gallery_vendor {name!r}: {self.pairs.name} has {', '.join(vendors)}")
        return vendors.index(name)

    # --- networks ---

    def _build_teacher(self) -> Encoder:
        settings = self.config.teacher
        teacher = build_encoder(settings.network, settings.embedding_dim)
        if settings.weights is not None:
            load_weights(teacher, settings.network, settings.weights)
        return teacher.to(memory_format=torch.channels_last)

    def _build_student(self) -> Encoder:
        student = self.config.student
        encoder = build_encoder(
            student.network, self.config.teacher.embedding_dim, in_channels=student.in_channels, width=student.width
        )
        if student.weights is not None:
            load_weights(encoder, student.network, student.weights)
        return encoder.to(memory_format=torch.channels_last)

    @property
    def student(self) -> Encoder:
        """The student. The pruned teacher exists only once the teacher is trained; carving it is deterministic."""
        if self._student is None:
            from compressor.prune import prune

            ratio = self.config.student.macs_ratio
            assert ratio is not None  # the recipe's schema says so
            px = max(self.config.stages.distill.canvases)
            teacher = copy.deepcopy(self.teacher).cpu()
            self._student = prune(teacher, torch.zeros(1, 1, px, px), ratio, keep=[teacher.head])
        return self._student

    # --- embeddings, L2-normalised, float32 ---

    def teacher_gallery(self, indices: np.ndarray, device: torch.device) -> np.ndarray:
        settings = self.config.teacher
        photos = self.pairs.photos(indices)[:, self.gallery_vendor]
        return embed_photos(self.teacher, photos, settings.canvas_px, device, settings.flip_average)

    def teacher_accuracy(self, indices: np.ndarray, device: torch.device) -> float:
        sketches, truth = self.pairs.queries(indices)
        queries = embed_sketches(self.teacher, sketches, self.config.teacher.canvas_px, device)
        return accuracy_at_1(queries, self.teacher_gallery(indices, device), truth)

    def student_accuracy(self, indices: np.ndarray, canvas_px: int, device: torch.device) -> float:
        queries, gallery = self.student_embeddings(indices, canvas_px, device)
        return accuracy_at_1(queries, gallery, self.pairs.queries(indices)[1])

    def student_embeddings(
        self, indices: np.ndarray, canvas_px: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """All sketches of these pairs through the student on one canvas, (queries, dim), and the gallery through
        whoever embeds it, (n, dim). `pairs.queries` says which photo is a query's."""
        queries = embed_sketches(self.student, self.pairs.queries(indices)[0], canvas_px, device)
        if self.config.gallery == "teacher":
            return queries, np.asarray(self.targets["photos"][indices])
        photos = resize_pixels(self.pairs.photos(indices)[:, self.gallery_vendor], canvas_px)
        return queries, embed_photos(self.student, photos, canvas_px, device, flip_average=False)

    @property
    def view_seed(self) -> int:
        """Of the drawings' variations: runs that share it share what the teacher says about them."""
        own = self.config.stages.targets.seed
        return self.config.seed if own is None else own

    def load_targets(self, context: Context) -> None:
        """The views of every drawing, and what the teacher says about them and about the photos."""
        settings = self.config.stages.targets
        if not self.views:
            unpaired = len(self.drawings) - self.paired
            counts = [settings.views] * self.paired + [settings.drawing_views or settings.views] * unpaired
            first = np.searchsorted(self.owner, np.arange(len(self.split.train)))  # each training pair's first drawing
            self.view_offsets = np.cumsum([0, *counts])[[*first, *range(self.paired, len(self.drawings) + 1)]]
            self.views, self.mirrored = views_of(self.drawings, counts, settings.strength, self.view_seed)
        if not self.targets:
            self.targets = teacher_outputs(self, context, self.views)

    def stages(self) -> list[Stage]:
        stages: list[Stage] = [TeacherStage(self), TargetsStage(self), DistillStage(self)]
        settings = self.config.stages.quantise
        if settings.steps:
            changed = {"steps": settings.steps, "optimizer": settings.optimizer}
            fine_tuning = DistillStage(self, self.config.stages.distill.model_copy(update=changed))
            options = settings.model_dump(exclude={"steps", "optimizer"})
            stages.append(QuantiseAware(fine_tuning, quantise=["student"], **options))
        return stages + ([self.selector] if self.selector else [])

    @functools.cached_property
    def selector(self) -> SelectorStage | None:
        """The last stage, which holds the trained selector; None where every sketch gets the same canvas."""
        return selector_stage(self)

    def export(self, writer: BundleWriter) -> None:
        from compressor.tasks.sketch.export import export

        self.load_targets(self.context)  # a run that was resumed behind its last stage has not started any
        export(self, writer)

    def describe(self) -> dict[str, Any]:
        """What the data was: for the bundle's lineage."""
        return {
            "data": {
                "name": self.pairs.name,
                "sha256": self.pairs.hash,
                "fold": self.config.data.fold,
                "by": self.config.data.by,
            },
            "split": {part: len(getattr(self.split, part)) for part in ("train", "validation", "test")}
            | {"drawings": len(self.drawings) - self.paired},
            "credits": [credit for source in (self.pairs, *self.more_sources) for credit in source.credits],
        }
