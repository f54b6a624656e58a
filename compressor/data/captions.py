"""CaptionDataset: pictures of things with captions in several languages, memory-mapped; one form for every source.

items.json      per thing: name, concept, fold, and per language {"label", "tags"}
pictures.npy    (n, vendors, px, px, 3) uint8 RGB
more.npy        further pictures of the same things, (m, px, px, 3); an item's "more" says which
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.concepts import carve, equal_folds
from compressor.data.pairs import Split
from compressor.data.source import read_manifest
from compressor.data.words import content_words
from profiles.errors import RequestError
from profiles.storage import read_json, write_json

ITEMS, PICTURES, MORE = "items.json", "pictures.npy", "more.npy"


class CaptionDataset:
    """`len(captions)` things. Arrays stay on disk until they are read."""

    def __init__(self, path: Path) -> None:
        self.manifest = read_manifest(path)
        if "languages" not in self.manifest:
            raise RequestError(f"{path}: this source has no captions")
        self.items: list[dict[str, Any]] = read_json(path / ITEMS)
        self._pictures = np.load(path / PICTURES, mmap_mode="r")
        self._more = np.load(path / MORE, mmap_mode="r")
        self.vendors: tuple[str, ...] = tuple(self.manifest["vendors"])
        self.languages: tuple[str, ...] = tuple(self.manifest["languages"])

        self.classes: list[dict[str, str]] = self.manifest.get("classes", [])  # "key", and a name in each language

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
        """Name, version, licence, url and note of every package that the pictures and captions come from."""
        fields = ("name", "version", "licence", "url", "note")
        return [{field: package[field] for field in fields} for package in self.manifest["packages"]]

    def vendor(self, indices: Sequence[int] | np.ndarray, vendor: str) -> np.ndarray:
        """(n, px, px, 3) uint8: one vendor's pictures of these things. Raises RequestError for an unknown vendor."""
        if vendor not in self.vendors:
            raise RequestError(f"vendor {vendor!r}: {self.name} has {', '.join(self.vendors)}")
        return self._pictures[np.asarray(indices), self.vendors.index(vendor)]

    def pictures(self, index: int) -> np.ndarray:
        """(k, px, px, 3) uint8: all pictures of one thing, the vendors' first."""
        first, last = self.items[index]["more"]
        return np.concatenate([self._pictures[index], self._more[first:last]])

    def label(self, index: int, language: str) -> str:
        return str(self.items[index][language]["label"])

    def tags(self, index: int, language: str) -> list[str]:
        return [str(tag) for tag in self.items[index][language]["tags"]]

    def class_of(self, index: int) -> int:
        """Where the thing's class stands in `classes`; -1 where the set has none."""
        keys = [own["key"] for own in self.classes]
        return keys.index(self.items[index]["class"]) if keys else -1

    def caption(self, index: int, language: str) -> str:
        """The label and all tags, as one line of text; the tags that the label already is are left out."""
        label = self.label(index, language)
        return ", ".join([label, *(tag for tag in self.tags(index, language) if tag.lower() != label.lower())])

    def without(self, words: Collection[str]) -> np.ndarray:
        """Things whose English label has none of these content words (see words.py). Raises RequestError where there is
        no English."""
        if "en" not in self.languages:
            raise RequestError(f"{self.name}: has no English captions, which tell what shows a held-out thing")
        chosen = [content_words(self.label(index, "en")).isdisjoint(words) for index in range(len(self))]
        return np.flatnonzero(chosen)

    def split(self, fold: int, validation_share: float = 0.1) -> Split:
        """Test: every fifth thing, dealt one by one, so that one gallery has few variants of a concept. Training: what
        is left of the others without `validation_share` of them and without all variants of held-out concepts.

        Raises RequestError if there is no such fold or a part is left empty.
        """
        keys = [f"{index}/{item['name']}" for index, item in enumerate(self.items)]
        folds = equal_folds(keys)
        if not 0 <= fold <= folds.max():
            raise RequestError(f"fold {fold}: {self.name} has the folds 0 to {folds.max()}")
        concepts = np.array([item["concept"] for item in self.items])
        rest = np.flatnonzero(folds != fold)
        held = carve([keys[i] for i in rest], round(validation_share * len(rest)), salt=f"validation of fold {fold}")
        is_held = np.array([keys[i] in held for i in rest], bool)
        test = np.flatnonzero(folds == fold)
        validation = rest[is_held & ~np.isin(concepts[rest], concepts[test])]
        closed = concepts[np.concatenate([validation, test])]
        train = rest[~is_held & ~np.isin(concepts[rest], closed)]
        if not len(train) or not len(validation):
            raise RequestError(f"{self.name}: {len(self)} things leave nothing to train on or to validate with")
        return Split(train=train, validation=validation, test=test)


def write_captions(
    directory: Path,
    items: Sequence[Mapping[str, Any]],
    pictures: np.ndarray,
    more: np.ndarray,
    more_counts: Sequence[int],
) -> None:
    """Store a data set into an existing directory. `more`: further pictures, those of each item together, in order."""
    ends = np.cumsum([0, *more_counts]).tolist()
    entries = [{**item, "more": [first, last]} for item, first, last in zip(items, ends, ends[1:], strict=False)]
    write_json(directory / ITEMS, entries)
    np.save(directory / PICTURES, pictures, allow_pickle=False)
    np.save(directory / MORE, more, allow_pickle=False)


def load_captions(where: str | Path, picture_px: int = 128) -> CaptionDataset:
    """A source's name (fetched when it is not there yet), or a file or folder of one's own pairs (see pairs_stream.py),
    whose pictures are stored at `picture_px`."""
    from compressor.data import fetch, sources
    from compressor.data.pairs_stream import fetch_stream

    if str(where) in {source.name for source in sources()}:
        return CaptionDataset(fetch(str(where)))
    return CaptionDataset(fetch_stream(Path(where), picture_px))
