"""Activity recognition from a body-worn sensor, taught by video.

After COMODO (2025): a frozen video encoder's embeddings fill a queue, and the student that reads the inertial signal of
the same moment must see itself among them as the video does. What the student has learned serves a class head that is
trained on few labelled windows of real people. The metric is the accuracy per window on people that nothing was
learned from.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from compressor.context import seed_globally
from compressor.data.imu_windows import Pairs, Windows
from compressor.data.source import read_manifest
from compressor.models.imu_encoder import SHAPES, ImuEncoder
from compressor.stage import Stage, TargetsStage
from compressor.stage import Task as BaseTask
from compressor.tasks.imu.classify import ClassifyStage
from compressor.tasks.imu.config import ImuConfig
from compressor.tasks.imu.distill import DistillStage, SimclrStage
from compressor.tasks.imu.teacher import (
    TeacherStage,
    build_teacher,
    teacher_outputs,
    trains_teacher,
)
from profiles.errors import RequestError

if TYPE_CHECKING:
    from compressor.train import Context
    from targets.export import BundleWriter

PARTS = ("train", "validation", "test")
CHUNK = 4096  # windows that are filtered at once


class Task(BaseTask):
    """Pairs, labelled windows, teacher, student, stages.

    pairs, train_pairs, held_out_pairs: the pairs, and indices of those that are learned from and not. labelled: all
    windows of the labelled set; train, validation, test: its people's parts, as `Windows`. *_signals: (n, 6, length)
    float32, scaled; *_labels (n,) int64. pair_signals: the pairs', scaled and matched to the real ones' spectrum.
    """

    Config: ClassVar[type[ImuConfig]] = ImuConfig
    config: ImuConfig

    def setup(self, context: Context) -> None:
        config = self.config
        self.context = context
        self._load_pairs()
        self._load_labelled()
        self._scale_pairs()
        frames, px = self.pairs.video.shape[1:3]
        if frames < 3:
            raise RequestError(f"{config.data.pairs}: {frames} frames per clip; a teacher of motion needs at least 3")
        seed_globally(config.seed, "teacher")
        self.teacher = build_teacher(config.teacher, px)
        if config.teacher.weights is not None:
            load_weights(self.teacher, config.teacher.weights, "teacher.weights")
        seed_globally(config.seed, "student")
        self.student = self._build_student()
        self._targets: np.ndarray | None = None

    # --- data ---

    def _load_pairs(self) -> None:
        """The pairs, and which of them are learned from: not the held-out clips, or a layout's training part."""
        path, self.pairs = load_pairs(self.config)
        self.pairs_manifest = read_manifest(path)
        self.pairs_hash: str = self.pairs_manifest["hash"]
        self.parts: np.ndarray | None = None
        if self.config.data.pairs == "mocap":
            self.train_pairs, self.held_out_pairs = self.pairs.split(self.config.data.held_out_clips)
        else:
            from compressor.data.imu_layouts import load_parts

            self.parts = load_parts(path)
            self.train_pairs, self.held_out_pairs = (np.flatnonzero(self.parts == part) for part in ("train", "val"))

    def _load_labelled(self) -> None:
        """The labelled windows' three parts: by people, or as the layout of the pairs says."""
        data = self.config.data
        if self.parts is not None:
            self.labelled, self.labelled_manifest = self.pairs.windows, self.pairs_manifest
            parts = [self.labelled.select(np.flatnonzero(self.parts == part)) for part in ("train", "val", "test")]
            self.train, self.validation, self.test = parts
        else:
            from compressor.data import fetch
            from compressor.data.hapt import load

            path = fetch(data.labelled)
            self.labelled, self.labelled_manifest = load(path), read_manifest(path)
            self.train = self.labelled.without_people([*data.validation_people, *data.test_people])
            self.validation = self.labelled.of_people(data.validation_people)
            self.test = self.labelled.of_people(data.test_people)
        self.classes = self.labelled.label_names
        self.train_signals, self.train_labels = self.scaled(self.train), labels_of(self.train)
        self.validation_signals, self.validation_labels = self.scaled(self.validation), labels_of(self.validation)

    def _scale_pairs(self) -> None:
        signals = self.scaled(self.pairs.windows)
        self.pair_signals = self._matched(signals) if self.config.data.spectral_match else signals

    def _matched(self, signals: np.ndarray) -> np.ndarray:
        """The simulated sensor's impacts and noise are not a real one's: what a filter can, it takes out of that."""
        from compressor.data.mocap_simulation.sensor import apply_gains, matching_gains

        gains = matching_gains(signals, self.train_signals)
        return np.concatenate([apply_gains(signals[i : i + CHUNK], gains) for i in range(0, len(signals), CHUNK)])

    @functools.cached_property
    def scale(self) -> tuple[float, ...]:
        """Per channel, in m/s2 and rad/s."""
        return (self.config.data.scale[0],) * 3 + (self.config.data.scale[1],) * 3

    def scaled(self, windows: Windows) -> np.ndarray:
        return np.asarray(windows.signals, np.float32) / np.array(self.scale, np.float32)[:, None]

    def labelled_rows(self, share: float, draw: int) -> np.ndarray:
        """Which of the training people's windows have labels: of every class that share, at least one."""
        if share == 1:
            return np.arange(len(self.train_labels))
        rng = np.random.default_rng([round(share * 1e6), draw])  # the same windows for every seed and variant
        parts = []
        for label in range(len(self.classes)):
            rows = np.flatnonzero(self.train_labels == label)
            parts.append(rng.choice(rows, max(1, round(share * len(rows))), replace=False))
        return np.sort(np.concatenate(parts))

    # --- networks ---

    def _build_student(self) -> ImuEncoder:
        settings = self.config.student
        if settings.network not in SHAPES:
            raise RequestError(f"student.network {settings.network!r}: there are {', '.join(SHAPES)}")
        student = ImuEncoder(settings.network, settings.multi_scale)
        if settings.weights is not None:
            load_weights(student, settings.weights, "student.weights", prefix="encoder.")
        return student.to(memory_format=torch.channels_last)

    @functools.cached_property
    def teacher_dim(self) -> int:
        """How long the embeddings are that the student's are compared with."""
        if self.config.stages.distill.dim is not None:
            return self.config.stages.distill.dim
        network: Any = getattr(self.teacher, "network", None)
        return int(network.config.hidden_size) if network is not None else self.config.teacher.embedding_dim

    def load_targets(self, context: Context) -> np.ndarray:
        """(pairs, dim) float32: what the teacher says about every clip."""
        if self._targets is None:
            self._targets = np.array(teacher_outputs(self, context))
            if self.config.stages.distill.dim is not None:
                self._targets = principal(self._targets, self.train_pairs, self.config.stages.distill.dim)
        return self._targets

    def stages(self) -> list[Stage]:
        stages: list[Stage] = []
        if self.config.stages.distill.steps:
            if trains_teacher(self.config):
                stages.append(TeacherStage(self))
            stages += [TargetsStage(self), DistillStage(self)]
        if self.config.stages.simclr.steps:
            stages.append(SimclrStage(self))
        return [*stages, self.classify]

    @functools.cached_property
    def classify(self) -> ClassifyStage:
        """The last stage, which holds the classifier that is deployed."""
        return ClassifyStage(self)

    def export(self, writer: BundleWriter) -> None:
        from compressor.tasks.imu.deploy import export

        export(self, writer)

    def describe(self) -> dict[str, Any]:
        """What the data was: for the bundle's lineage."""
        data = self.config.data
        keys = ("name", "version", "licence", "url", "note")
        manifests, labelled = [self.pairs_manifest], data.pairs  # a layout's pairs are labelled themselves
        if self.parts is None:
            manifests, labelled = [*manifests, self.labelled_manifest], data.labelled
        packages = [package for manifest in manifests for package in manifest["packages"]]
        return {
            "data": {
                "pairs": {"name": data.pairs, "sha256": self.pairs_hash, "simulation": data.pairs == "mocap"},
                "labelled": {"name": labelled, "sha256": self.labelled_manifest["hash"]},
            },
            "split": {
                "people": {part: sorted(set(getattr(self, part).people.tolist())) for part in PARTS},
                "windows": {part: len(getattr(self, part)) for part in PARTS},
                "held_out_clips": list(data.held_out_clips),
            },
            "credits": [{key: package.get(key, "") for key in keys} for package in packages],
        }


def labels_of(windows: Windows) -> np.ndarray:
    assert windows.labels is not None  # a labelled set has them
    return windows.labels.astype(np.int64)


def load_pairs(config: ImuConfig) -> tuple[Any, Pairs]:
    """The directory of the pairs that a recipe names, and the pairs."""
    from pydantic import ValidationError

    from compressor.data import fetch, mocap

    data = config.data
    if data.pairs != "mocap":
        from compressor.data import imu_layouts

        return imu_layouts.load_pairs(data.pairs, data.frames, data.side_px)
    try:
        settings = mocap.MocapSettings(**data.simulation)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestError(f"data.simulation.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    path = mocap.fetch_pairs(settings) if data.simulation else fetch("mocap")
    return path, mocap.load_pairs(path)


def principal(embeddings: np.ndarray, fitted: np.ndarray, dim: int) -> np.ndarray:
    """(n, teacher's dim) -> (n, dim) float32, unit rows, along the directions in which rows `fitted` are longest. Not
    centred: products of rows, which is what the loss sees, change as little as `dim` directions allow."""
    if dim > embeddings.shape[1]:
        raise RequestError(f"stages.distill.dim {dim}: the teacher's embeddings have {embeddings.shape[1]}")
    rows = embeddings[fitted].astype(np.float64)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    reduced = embeddings @ vectors[:, : -dim - 1 : -1]
    return (reduced / np.linalg.norm(reduced, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)


def load_weights(module: nn.Module, path: str, key: str, prefix: str = "") -> None:
    """Weights from a .safetensors file; `prefix` is taken off the names (a bundle's encoder has one). Raises
    RequestError, naming the recipe's key, if they are not this network's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict({name.removeprefix(prefix): value for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise RequestError(f"{key} {path}: {line}") from None
