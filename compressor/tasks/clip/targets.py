"""What students learn from, laid out once: pictures and their views, texts as tokens, and the teacher's features of
all.

Features are those of the frozen backbones, so no fold, seed or head changes them: they are computed once for all runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.context import entropy
from compressor.data import fetch
from compressor.data.bilingual_text import TEXTS
from compressor.data.captions import CaptionDataset
from compressor.recipe import canonical_hash
from compressor.tasks.clip import views
from compressor.tasks.clip.metrics import unit_rows
from compressor.tasks.clip.pictures import resize
from compressor.tasks.clip.teacher import Teacher, in_chunks, through_head
from compressor.tasks.clip.tokenizer import Tokenizer
from compressor.tasks.clip.tokenizer_training import train_tokenizer
from profiles.errors import RequestError
from profiles.storage import read_json
from targets.glue import evenly_spread

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.cache import TeacherCache
    from compressor.tasks.clip.config import ClipConfig

REVISION = 1  # of the features: part of the cache's key
CHUNK = 64
PART = 4096  # texts between two writes
COMPOSE_SEED = 0  # one for all recipes, so that all share what the teacher says about them
COMPOSE_MOST = 12  # texts in one that is composed
PIECE = 24  # characters of such a text, at most
POOL, NEAR = 40000, 48  # texts that are composed of, and of how many that are nearest to the first the others are
TOKENIZER_TEXTS = 400_000  # are enough to learn merges from


@dataclass(frozen=True)
class Texts:
    """Texts as tokens, ids (n, length) int32 and mask (n, length) float32, and the teacher's features (n, width)."""

    ids: np.ndarray
    mask: np.ndarray
    features: np.ndarray


class PictureBank:
    """All pictures of all things: thing i has the pictures `first[i]:first[i + 1]`, the vendors' first.

    Of each view: small (pictures, px, px, 3) uint8 for the student, features (pictures, width) of the teacher, and
    embeddings (pictures, dim) by its head as it was when `embed` was called.
    """

    def __init__(self, task_config: ClipConfig, data: CaptionDataset, teacher: Teacher, cache: TeacherCache) -> None:
        self.data, self.teacher, self.cache = data, teacher, cache
        self.settings = task_config.stages.targets
        self.px = task_config.student.image.px
        counts = [len(data.vendors) + item["more"][1] - item["more"][0] for item in data.items]
        self.first = np.cumsum([0, *counts])
        self.small: list[np.ndarray] = []
        self.features: list[np.ndarray] = []
        self.embeddings: list[np.ndarray] = []

    def load(self, device: torch.device) -> None:
        """A view is an entry of its own: more of them cost only what is new. Raises OSError where nothing can be
        kept.
        """
        for view in range(self.settings.views):
            key = {"revision": [REVISION, views.REVISION], "data": self.data.hash, "view": view}
            key |= {"strength": self.settings.strength} if view else {}
            small = self.cache.get(
                {"kind": "clip-pictures", "px": self.px, **key}, functools.partial(self._small, view)
            )
            teacher = {"kind": "clip-image-features", "teacher": self.teacher.key(), **key}
            found = self.cache.get(teacher, functools.partial(self._features, view, device))
            self.small.append(small["pictures"])
            self.features.append(found["features"])

    def embed(self, head: nn.Module) -> None:
        self.embeddings = [in_chunks(lambda rows: through_head(head, rows), own, 4096) for own in self.features]

    def _pictures(self, view: int) -> Iterator[np.ndarray]:
        """One view of all pictures, (some, px, px, 3) at a time, in order."""
        for start in range(0, len(self.data), CHUNK // 4):
            things = range(start, min(start + CHUNK // 4, len(self.data)))
            own = np.concatenate([self.data.pictures(index) for index in things])
            yield views.vary(own, self.first[start] + np.arange(len(own)), view, self.settings.strength)

    def _small(self, view: int) -> Iterator[dict[str, np.ndarray]]:
        for pictures in self._pictures(view):
            yield {"pictures": resize(pictures, self.px)}

    def _features(self, view: int, device: torch.device) -> Iterator[dict[str, np.ndarray]]:
        for pictures in self._pictures(view):
            yield {"features": self.teacher.image_features(pictures, device)}

    def small_of(self, pictures: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(n, px, px, 3): picture i in view `chosen[i]`."""
        return np.stack([self.small[view][picture] for picture, view in zip(pictures, chosen, strict=True)])

    def features_of(self, pictures: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.stack([self.features[view][picture] for picture, view in zip(pictures, chosen, strict=True)])

    def embeddings_of(self, pictures: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.stack([self.embeddings[view][picture] for picture, view in zip(pictures, chosen, strict=True)])

    def choose(self, things: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each thing one of its pictures and one of that picture's views, by chance."""
        first, last = self.first[things], self.first[things + 1]
        return first + (rng.random(len(things)) * (last - first)).astype(np.int64), rng.integers(
            0, self.settings.views, len(things)
        )


def read_texts(sources: Sequence[str], limit: int) -> list[tuple[str, str]]:
    """Pairs (English, Chinese) of the sources or of .json files like theirs, evenly spread, at most `limit` of each;
    one side may be empty."""
    pairs: list[tuple[str, str]] = []
    for name in sources:
        path = Path(name) if name.endswith(".json") else fetch(name) / TEXTS
        try:
            own = [(str(english), str(chinese)) for english, chinese in read_json(path)]
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(f"data.texts {name}: no pairs [English, Chinese] ({error})") from None
        pairs += [own[number] for number in evenly_spread(len(own), limit)] if own and limit else []
    return pairs


def compose(texts: Sequence[str], features: np.ndarray, count: int) -> Iterator[dict[str, np.ndarray]]:
    """`count` texts of 2 to 12 of these each, as a caption is a label and its tags: one of the short ones, then others
    of NEAR whose features (texts, width) are nearest. A dictionary has single words only, and a student that reads
    nothing else reads captions badly. Gives {"rows": (n, 12) int32, -1 where there are fewer}, some at a time."""
    rng = np.random.default_rng(entropy(COMPOSE_SEED, "clip-compose"))
    short = np.array([i for i, text in enumerate(texts) if len(text) <= PIECE], np.int32)
    pool = np.sort(rng.permutation(short)[:POOL])
    if not len(pool):
        return
    directions = unit_rows(np.asarray(features[pool], np.float32))
    near = min(NEAR, len(pool))
    for anchors in np.array_split(rng.integers(0, len(pool), count), max(count // 512, 1)):
        similarities = directions[anchors] @ directions.T
        similarities[np.arange(len(anchors)), anchors] = 2.0
        nearest = np.argpartition(-similarities, near - 1, axis=1)[:, :near]
        rows = np.full((len(anchors), COMPOSE_MOST), -1, np.int32)
        for row, anchor, others in zip(rows, anchors, nearest, strict=True):
            tags = rng.permutation(others[others != anchor])[: rng.integers(1, COMPOSE_MOST)]
            row[: 1 + len(tags)] = pool[[anchor, *tags]]
        yield {"rows": rows}


def composed_texts(
    texts: Sequence[str], features: np.ndarray, count: int, teacher: Teacher, cache: TeacherCache
) -> list[str]:
    """What `compose` chose, from the cache or chosen now: the first text, and the others in order of the alphabet.
    None where no text is short."""
    key = {"kind": "clip-composed", "revision": REVISION, "texts": canonical_hash(list(texts)), "count": count}
    key |= {"teacher": _text_key(teacher)}
    if not count or all(len(text) > PIECE for text in texts):
        return []
    rows = cache.get(key, lambda: compose(texts, features, count))["rows"]
    chosen = [[texts[i] for i in row if i >= 0] for row in rows]
    return [", ".join([own[0], *sorted(own[1:])]) for own in chosen]


def make_tokenizer(config: ClipConfig, texts: Sequence[str], cache: TeacherCache, path: Path) -> Tokenizer:
    """The tokenizer of these texts, from the cache or trained, as a file at `path`."""
    chosen = [texts[number] for number in evenly_spread(len(texts), TOKENIZER_TEXTS)]
    key = {
        "kind": "clip-tokenizer",
        "revision": REVISION,
        "texts": canonical_hash(chosen),
        "size": config.student.text.vocabulary,
    }

    def compute() -> dict[str, np.ndarray]:
        train_tokenizer(chosen, config.student.text.vocabulary, path)
        return {"json": np.frombuffer(path.read_bytes(), np.uint8)}

    path.write_bytes(bytes(np.asarray(cache.get(key, compute)["json"])))
    return Tokenizer(path)


def text_targets(
    tokenizer: Tokenizer, length: int, teacher: Teacher, cache: TeacherCache, device: torch.device, texts: Sequence[str]
) -> Texts:
    """Texts as tokens with the teacher's features. Both are kept; no more than PART of them is in memory meanwhile."""
    if not texts:
        return Texts(*(np.zeros((0, 1)) for _ in range(3)))
    digest = canonical_hash(list(texts))
    vocabulary = canonical_hash(sorted(tokenizer.ids))

    def tokens() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(texts), PART):
            yield tokenizer.batch(texts[start : start + PART], length)

    def features() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(texts), PART):
            part = texts[start : start + PART]
            order = np.argsort([len(text) for text in part], kind="stable")  # texts of like length: little padding
            rows = in_chunks(lambda own: teacher.text_features(own, device), [part[i] for i in order], CHUNK)
            yield {"features": rows[np.argsort(order)]}

    key: dict[str, Any] = {"revision": REVISION, "texts": digest}
    kept = cache.get({"kind": "clip-tokens", "vocabulary": vocabulary, "length": length, **key}, tokens)
    found = cache.get({"kind": "clip-text-features", "teacher": _text_key(teacher), **key}, features)
    return Texts(kept["ids"], kept["mask"], found["features"])


def _text_key(teacher: Teacher) -> dict[str, Any]:
    key = teacher.key()
    return {"text": key["text"]} if "text" in key else key
