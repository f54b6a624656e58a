"""Which emoji are variants of one concept, and equal folds by concept.

A variant of a test concept in the training part would be a leak: "man cook" and "cook" have the same lines.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
# Joiner, presentation selector, female, male, facing right: they vary a concept and make no new one.
MODIFIERS = {"200D", "FE0F", "2640", "2642", "27A1"}
ADULT = "1F9D1"
SAME_PERSON = {"1F468": ADULT, "1F469": ADULT, "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3"}
GENDER_WORDS = {"man", "woman", "men", "women", "person", "people", "and", "mr", "mrs", "mx"}
COLORS = "red|orange|yellow|green|blue|light blue|purple|brown|black|grey|pink|white"
# Series that differ in a detail or in colour only, which the line drawing does not have.
SERIES = {
    "clock face": r".*(o’clock|-thirty)",
    "heart": rf"({COLORS}) heart",
    "circle": rf"({COLORS}) circle",
    "square": rf"({COLORS}) ((large|medium|medium-small|small) )?square( button)?",
    "diamond": r"(large|small) (orange|blue) diamond",
    "moon phase": r"((new|full|(waxing|waning) (crescent|gibbous)|(first|last) quarter|crescent) moon|.* moon face)",
    "globe": r"globe showing .*",
    "royalty": r"prince|princess|person with crown",
    "claus": r"(santa|mrs\.|mx) claus",
}


def concept_keys(hexcode: str, label: str) -> list[Hashable]:
    """What this emoji shares with its variants: two emoji with a key in common are one concept.

    >>> set(concept_keys("1F468-200D-1F373", "man cook")) & set(concept_keys("1F9D1-200D-1F373", "cook"))
    {('code', '1F9D1-1F373'), ('words', 'cook')}
    """
    codes = [code for code in hexcode.upper().split("-") if code not in SKIN_TONES | MODIFIERS]
    keys: list[Hashable] = [("code", "-".join(SAME_PERSON.get(code, code) for code in codes) or hexcode)]
    head, _, tail = label.lower().partition(":")
    words = _without_gender(head) or _without_gender(tail)
    if words:
        keys.append(("words", words))
    keys += [("series", name) for name, pattern in SERIES.items() if re.fullmatch(pattern, label.lower())]
    return keys


def _without_gender(text: str) -> str:
    return " ".join(word for word in re.findall(r"[\w’'#*+-]+", text) if word not in GENDER_WORDS)


def group_by_keys(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """For each item the index of the first item that it is connected to through shared keys."""
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    owner: dict[Hashable, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            a, b = root(owner.setdefault(key, index)), root(index)
            parent[max(a, b)] = min(a, b)
    return [root(index) for index in range(len(keys))]


def equal_folds(concepts: Sequence[str], folds: int = 5) -> np.ndarray:
    """A fold (n,) int64 for each item, whole concepts together, sizes as equal as they can be.

    Large concepts first, each into the smallest fold; the order among equals is that of a hash, so a fold depends
    on the concepts' names only.
    """
    sizes = _sizes(concepts)
    filled = [0] * folds
    chosen: dict[str, int] = {}
    for concept in sorted(sizes, key=lambda name: (-sizes[name], _digest(name))):
        fold = filled.index(min(filled))
        chosen[concept] = fold
        filled[fold] += sizes[concept]
    return np.array([chosen[concept] for concept in concepts], np.int64)


def carve(concepts: Sequence[str], count: int, salt: str) -> set[str]:
    """Whole concepts, in the order of a salted hash, that together have as many items as fit into `count`."""
    sizes = _sizes(concepts)
    taken: set[str] = set()
    for concept in sorted(sizes, key=lambda name: _digest(f"{salt}/{name}")):
        if sizes[concept] <= count:
            taken.add(concept)
            count -= sizes[concept]
    return taken


def _sizes(concepts: Sequence[str]) -> Mapping[str, int]:
    sizes: dict[str, int] = {}
    for concept in concepts:
        sizes[concept] = sizes.get(concept, 0) + 1
    return sizes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
