"""What every canvas would have earned: cross-fitted samples that a canvas selector learns from.

A student's ranks on drawings that it was trained on are too good, and most of what one student gets right on one canvas
and not on another is luck. So a sample is a drawing that its student has not seen, in several variations, and further
students (`selector.students`, bundles of other seeds or folds) add theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.context import entropy
from compressor.data.sketch import Sketch, unpack_sketches
from compressor.tasks.sketch.glue import Glue, ranks
from compressor.tasks.sketch.selector.config import SelectorConfig, selector_canvases
from compressor.tasks.sketch.selector.features import NEAREST, combined
from compressor.tasks.sketch.teacher import embed_photos, embed_sketches
from compressor.tasks.sketch.views import resize_pixels, vary
from profiles.errors import RequestError

if TYPE_CHECKING:
    import torch

    from compressor.tasks.sketch.task import Task

SOFTMAX_TEMPERATURE = 0.05  # of "probability"


@dataclass(frozen=True)
class Unseen:
    """Drawings that one student was not trained on, and what it looks for them in.

    labels (n,). gallery (G, D) L2-normalised; truth (n,) its right row. embed: sketches, canvas in pixels -> (n, D).
    """

    labels: list[str]
    sketches: list[Sketch]
    gallery: np.ndarray
    truth: np.ndarray
    embed: Callable[[Sequence[Sketch], int], np.ndarray]


@dataclass(frozen=True)
class Outcomes:
    """Per (student, drawing, view): N samples; K canvases.

    labels (N,), views: the drawings as they were varied, the first view of each not at all (`plain`, (N,)).
    rank, triplet, probability (N, K): of the right photo; L_triplet; softmax over the gallery at the right photo.
    alone (N, K): the rank after one look at that canvas, nothing combined.
    nearest (N, K, NEAREST): the largest similarities, best first. own (N,): the student is the one to be deployed.
    """

    labels: np.ndarray
    views: list[Sketch]
    plain: np.ndarray
    own: np.ndarray
    rank: np.ndarray
    alone: np.ndarray
    triplet: np.ndarray
    probability: np.ndarray
    nearest: np.ndarray
    gallery_size: int

    @property
    def correct(self) -> np.ndarray:
        """(N, K) float64, 1 where the right photo came first."""
        return (self.rank == 1).astype(np.float64)

    def usefulness(self, kind: str, smooth: bool) -> np.ndarray:
        """(N, K): 1 / rank, the probability of the right photo, or 1 where it came first; `smooth`: the mean over all
        views and students of a drawing, for a selector that sees the drawing and not what a student makes of it."""
        value = {"reciprocal_rank": 1 / self.rank, "probability": self.probability, "accuracy": self.correct}[kind]
        return self.mean_by_label(value) if smooth else value

    def mean_by_label(self, values: np.ndarray) -> np.ndarray:
        """(N, K): of every drawing the mean over its samples."""
        _, group = np.unique(self.labels, return_inverse=True)
        return by_drawing(self.labels, values)[group]


def by_drawing(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means over the samples of each drawing, by name: (N, ...) -> (drawings, ...)."""
    _, group = np.unique(labels, return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, *values.shape[1:]))
    np.add.at(sums, group, values)
    return sums / np.bincount(group).reshape(-1, *[1] * (values.ndim - 1))


def collect(task: Task, settings: SelectorConfig, device: torch.device) -> Outcomes:
    """The samples of the deployed student's validation part, then those of `settings.students`. Its looks are combined
    as the settings say, so those of one kind of selector are not those of another."""
    canvases = selector_canvases(settings, task.config.deploy.canvases)
    wanted = settings.gallery or len(task.split.test)
    parts = [_own(task, wanted, device), *(_of_bundle(task, path, canvases, wanted) for path in settings.students)]
    results = [outcomes(part, canvases, settings, task.config.seed, own=index == 0) for index, part in enumerate(parts)]
    joined = {
        name: np.concatenate([getattr(result, name) for result in results])
        for name in ("labels", "plain", "own", "rank", "alone", "triplet", "probability", "nearest")
    }
    views = [view for result in results for view in result.views]
    return Outcomes(views=views, gallery_size=results[0].gallery_size, **joined)


def outcomes(unseen: Unseen, canvases: tuple[int, ...], settings: SelectorConfig, seed: int, own: bool) -> Outcomes:
    """What one student makes of its unseen drawings on every canvas, or with the looks that lead to it."""
    views = [
        sketch if view == 0 else vary(sketch, _rng(seed, label, view), settings.view_strength, mirrored=False)
        for label, sketch in zip(unseen.labels, unseen.sketches, strict=True)
        for view in range(settings.views)
    ]
    truth = np.repeat(unseen.truth, settings.views)
    embeddings = np.stack([unseen.embed(views, px) for px in canvases], axis=1)
    asked = combined(embeddings, settings.combined)
    shape = asked.shape[:2]
    rank, alone, triplet, probability = (np.empty(shape, kind) for kind in (np.int64, np.int64, float, float))
    nearest = np.empty((*shape, min(NEAREST, len(unseen.gallery))), np.float32)
    rows = np.arange(len(truth))
    for level in range(shape[1]):
        similarities = asked[:, level] @ unseen.gallery.T
        right = similarities[rows, truth]
        rank[:, level] = ranks(similarities, truth)
        alone[:, level] = ranks(embeddings[:, level] @ unseen.gallery.T, truth)
        weights = np.exp((similarities - similarities.max(1, keepdims=True)).astype(np.float64) / SOFTMAX_TEMPERATURE)
        probability[:, level] = weights[rows, truth] / weights.sum(1)
        nearest[:, level] = -np.sort(-similarities, axis=1)[:, : nearest.shape[2]]
        similarities[rows, truth] = -np.inf
        triplet[:, level] = triplet_of(right, similarities.max(1), settings.margin)
    return Outcomes(
        labels=np.repeat(np.array(unseen.labels), settings.views),
        views=views,
        plain=np.tile(np.arange(settings.views) == 0, len(unseen.sketches)),
        own=np.full(len(views), own),
        rank=rank,
        alone=alone,
        triplet=triplet,
        probability=probability,
        nearest=nearest,
        gallery_size=len(unseen.gallery),
    )


def triplet_of(right: np.ndarray, wrong: np.ndarray, margin: float) -> np.ndarray:
    """max(0, margin + d(s, p) - d(s, n)) from the cosines of L2-normalised rows; d is Euclidean, sqrt(2 - 2 cos)."""
    near, far = (np.sqrt(np.maximum(2 - 2 * cosine.astype(np.float64), 0)) for cosine in (right, wrong))
    return np.maximum(margin + near - far, 0)


def _rng(seed: int, label: str, view: int) -> np.random.Generator:
    """Of one view of one drawing, the same for every student: their ranks can be averaged."""
    return np.random.default_rng(entropy(seed, "selector view", label, view))


# --- where samples come from ---


def _own(task: Task, wanted: int, device: torch.device) -> Unseen:
    """The validation part, which no stage has trained on; training photos fill its gallery up to `wanted`."""
    config, part = task.config, task.split.validation
    spare = task.context.rng("selector gallery").permutation(task.split.train)[: max(wanted - len(part), 0)]
    indices = np.concatenate([part, spare])
    if config.gallery == "teacher":
        gallery = np.array(task.targets["photos"][indices])
    else:
        px = config.deploy.canvas_px
        photos = resize_pixels(task.pairs.photos(indices)[:, task.gallery_vendor], px)
        gallery = embed_photos(task.student, photos, px, device, flip_average=False)
    return Unseen(
        labels=[task.pairs.label(int(index)) for index in part],
        sketches=[task.sketches[index] for index in part],
        gallery=gallery,
        truth=np.arange(len(part)),
        embed=lambda sketches, px: embed_sketches(task.student, list(sketches), px, device),
    )


def _of_bundle(task: Task, path: str, canvases: tuple[int, ...], wanted: int) -> Unseen:
    """Another student's validation part, without what is in our own test part, in a gallery without it.

    Raises RequestError where the bundle lacks an encoder of these canvases, or has no drawing that can be used.
    """
    import targets
    from targets.bundle import Bundle

    student, pairs = targets.load(path), task.pairs
    if missing := [px for px in canvases if f"encoder_{px}" not in student.sessions]:
        raise RequestError(f"selector.students: {path} has no encoder_{missing[0]}; deploy it there (deploy.canvases)")
    glue, arrays = student.glue, Bundle.open(Path(path)).split("validation")
    assert isinstance(glue, Glue)
    concepts = {pairs.label(index): pairs.concept(index) for index in range(len(pairs))}
    closed = {pairs.concept(int(index)) for index in task.split.test}
    labels = [str(label) for label in arrays["labels"]]
    known = [label in concepts and concepts[label] not in closed for label in labels]
    if not any(known):
        raise RequestError(f"selector.students: {path} has no validation drawing of {pairs.name} outside the test part")
    kept = np.flatnonzero(known)
    truth = np.asarray(arrays["truth"])
    use = np.flatnonzero(np.isin(truth, kept))
    gallery, spare = glue.split_gallery(arrays).embeddings[kept], glue.gallery()
    own = {labels[index] for index in kept}
    extra = [
        index for index, label in enumerate(spare.labels) if label not in own and concepts.get(label) not in closed
    ]
    chosen = task.context.rng("selector gallery", path).permutation(extra)[: max(wanted - len(kept), 0)]
    sketches = unpack_sketches(arrays)
    return Unseen(
        labels=[labels[truth[index]] for index in use],
        sketches=[sketches[index] for index in use],
        gallery=np.concatenate([gallery, spare.embeddings[chosen.astype(np.int64)]]),
        truth=np.searchsorted(kept, truth[use]),
        embed=glue.encode,
    )
