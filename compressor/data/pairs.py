"""PairDataset: sketches and photos of the same things, whatever they came from, memory-mapped."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compressor.data.concepts import carve, equal_folds
from compressor.data.sketch import FIELDS, Sketch, pack_sketches, unpack_sketch
from compressor.data.source import read_manifest
from compressor.data.words import content_words
from profiles.errors import RequestError
from profiles.storage import read_json, write_json

ITEMS = "items.json"
PHOTOS = "photos.npy"
MORE = "more_photos.npy"


@dataclass(frozen=True)
class Split:
    """Indices of pairs, int64, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class PairDataset:
    """`len(pairs)` sketch-photo pairs, and `drawings`: sketches without a photo.

    A pair's `concept` is shared with its variants (see `split`). Where several people have drawn one photo it is one
    pair with several sketches: a gallery has every photo once. Arrays stay on disk until they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        entries: list[dict[str, Any]] = read_json(path / ITEMS)
        self._arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in FIELDS}
        self._photos = np.load(path / PHOTOS, mmap_mode="r")
        self._more = np.load(path / MORE, mmap_mode="r") if (path / MORE).is_file() else None
        self.items = entries[: len(self._photos)]
        self._unpaired = entries[len(self._photos) :]
        # Sketch files hold the first pair's sketches, the second's, and so on, then those without a photo.
        self._first = np.cumsum([0, *(item.get("sketches", 1) for item in self.items)])
        self.vendors: tuple[str, ...] = tuple(self.manifest["vendors"])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def hash(self) -> str:
        """SHA-256 over everything that is stored; caches of teacher outputs are keyed by it."""
        return str(self.manifest["hash"])

    @property
    def credits(self) -> list[dict[str, str]]:
        """Name, version, licence, url and note of every package that the pictures come from."""
        fields = ("name", "version", "licence", "url", "note")
        return [{field: package[field] for field in fields} for package in self.manifest["packages"]]

    @property
    def photo_px(self) -> int:
        return int(self._photos.shape[2])

    def sketch(self, index: int) -> Sketch:
        """The pair's sketch; the first of several."""
        return unpack_sketch(self._arrays, int(self._first[range(len(self))[index]]), prefix="")

    def sketches(self, index: int) -> list[Sketch]:
        """All sketches of the pair's photo, at least one."""
        pair = range(len(self))[index]
        own = range(int(self._first[pair]), int(self._first[pair + 1]))
        return [unpack_sketch(self._arrays, number, prefix="") for number in own]

    def queries(self, indices: Iterable[int]) -> tuple[list[Sketch], np.ndarray]:
        """All sketches of these pairs, pair by pair, and where in `indices` the pair of each stands, (n,) int64."""
        found = [self.sketches(int(index)) for index in indices]
        truth = np.repeat(np.arange(len(found)), [len(own) for own in found]).astype(np.int64)
        return list(itertools.chain.from_iterable(found)), truth

    def photos(self, index: int | np.ndarray | Sequence[int]) -> np.ndarray:
        """(vendors, photo_px, photo_px, 3) uint8 RGB; with several indices (n, vendors, ...)."""
        return self._photos[index]

    def more_photos(self, index: int) -> np.ndarray:
        """(k, photo_px, photo_px, 3) uint8 RGB: pictures of the same thing beside its vendors', often none."""
        first, last = self.items[index].get("more_photos", (0, 0))
        if self._more is None or first == last:
            return np.zeros((0, self.photo_px, self.photo_px, 3), np.uint8)
        return self._more[first:last]

    def label(self, index: int) -> str:
        return str(self.items[index]["label"])

    def concept(self, index: int) -> str:
        return str(self.items[index]["concept"])

    def fold(self, index: int) -> int:
        """The fold by concept."""
        return int(self.items[index]["fold"])

    def split(self, fold: int, validation_share: float = 0.125, by: Literal["item", "concept"] = "item") -> Split:
        """Test: the pairs of `fold`. Validation: `validation_share` of the others.

        by: "concept" keeps all variants of a concept in one part, in the folds that `fold(index)` tells. "item" deals
        every pair into a fold by itself: a test pair ("woman cook") and its photos are unseen, a variant of it
        ("man cook") may have been seen. Of openmoji's test pairs 24 % have a variant and 5 % the very same lines in
        the training part then. With "concept" the variants also meet in one gallery, which is harder.

        A set that was published with a test part of its own has it as its only fold, by "concept".
        """
        if by == "item" and self.manifest.get("own_test_part"):
            raise RequestError(f"{self.name}: it was published with a test part of its own; use data.by=concept")
        if by == "concept":
            keys = [self.concept(i) for i in range(len(self))]
            folds = np.array([self.fold(i) for i in range(len(self))], np.int64)
        else:
            keys = [f"{i}/{self.label(i)}" for i in range(len(self))]
            folds = equal_folds(keys)
        if not len(self):
            raise RequestError(f"{self.name}: it has drawings only, no pairs to split")
        if not 0 <= fold <= folds.max():
            raise RequestError(f"fold {fold}: {self.name} has the folds 0 to {folds.max()}")
        if not 0 <= validation_share < 1:
            raise RequestError(f"validation_share {validation_share}: it must be at least 0 and less than 1")
        rest = np.flatnonzero(folds != fold)
        held = carve([keys[i] for i in rest], round(validation_share * len(rest)), salt=f"validation of fold {fold}")
        is_held = np.array([keys[i] in held for i in rest], bool)
        return Split(train=rest[~is_held], validation=rest[is_held], test=np.flatnonzero(folds == fold))

    def drawings(self, split: Split | None = None) -> list[Sketch]:
        """Sketches without a photo. With a split (by either): those whose concept is in neither validation nor test."""
        closed: set[str] = set()
        if split is not None:
            closed = {self.concept(int(index)) for index in np.concatenate([split.validation, split.test])}
        first = int(self._first[-1])
        return [
            unpack_sketch(self._arrays, first + offset, prefix="")
            for offset, item in enumerate(self._unpaired)
            if item["concept"] not in closed
        ]

    def drawings_without(self, words: Collection[str]) -> list[Sketch]:
        """Sketches without a photo whose label has none of these content words (see words.py)."""
        first = int(self._first[-1])
        return [
            unpack_sketch(self._arrays, first + offset, prefix="")
            for offset, item in enumerate(self._unpaired)
            if content_words(item["label"]).isdisjoint(words)
        ]


def write_pairs(
    directory: Path,
    items: Sequence[Mapping[str, Any]],
    sketches: Sequence[Sketch],
    photos: Sequence[np.ndarray] | np.ndarray,
    more_photos: np.ndarray | None = None,
    more_counts: Sequence[int] = (),
) -> None:
    """Store a data set into an existing directory (atomic_directory's): `items` and `sketches` of the pairs first,
    then of the drawings without a photo; a pair with several sketches says how many in its item's "sketches".
    `photos`: one (vendors, H, H, 3) uint8 array per pair. Further pictures of
    the pairs follow each other in `more_photos` (m, H, H, 3), `more_counts` of each pair."""
    entries = [dict(item) for item in items]
    if more_photos is not None:
        ends = np.cumsum([0, *more_counts]).tolist()
        for item, first, last in zip(entries, ends, ends[1:], strict=False):
            item["more_photos"] = [first, last]
        np.save(directory / MORE, more_photos, allow_pickle=False)
    write_json(directory / ITEMS, entries)
    for name, array in pack_sketches(sketches, prefix="").items():
        np.save(directory / f"{name}.npy", array, allow_pickle=False)
    stacked = np.stack(list(photos)) if len(photos) else np.zeros((0, 0, 1, 1, 3), np.uint8)
    np.save(directory / PHOTOS, stacked, allow_pickle=False)


def load_pairs(where: str | Path, photo_px: int | None = None) -> PairDataset:
    """A source's name (fetched when it is not there yet), or a folder: a copy of a published set in its own layout (see
    layout.py), or the user's own pairs (see folder.py), whose photos are stored at `photo_px`, each kind's own if null.

    A source like "line-icons" has drawings only: its length is 0.
    """
    from compressor.data import fetch, sources

    if str(where) in {source.name for source in sources()}:
        path = fetch(str(where))
        if not (path / PHOTOS).is_file():
            raise RequestError(f"{where}: this source has neither sketches nor photos")
        return PairDataset(path)
    from compressor.data.folder import fetch_folder
    from compressor.data.layout import find_layout

    layout = find_layout(Path(where))
    fetch_copy = layout.fetch if layout else fetch_folder
    return PairDataset(fetch_copy(Path(where), photo_px))
