"""Words of labels: whether two drawings may show the same thing, as far as their names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What names carry beside the thing that they name: grammar, colours and sizes, people, an icon's style or state.
# "face" and "hand" stay out of this list: a smiling face is a thing.
_GRAMMAR = "a an and as at by for from in into of off on or out over the to under up with without"
_LOOKS = "black white red orange yellow green blue purple brown grey gray dark light medium"
_PLACES = "big small large mini new old high low left right top bottom upper lower middle half"
_PEOPLE = "man men woman women person people"
_ICONS = "add alt circle duo fill line minus outline plus remove round rounded simple slash square style"
COMMON = frozenset(f"{_GRAMMAR} {_LOOKS} {_PLACES} {_PEOPLE} {_ICONS}".split())


def content_words(label: str) -> frozenset[str]:
    """The words of a label that name a thing: lower case, singular by a plain rule, without numbers and COMMON.

    >>> sorted(content_words("Woman with two Red apples 02"))
    ['apple', 'two']
    """
    words = re.findall(r"[a-z]+", label.lower())
    return frozenset(_singular(word) for word in words if len(word) > 1 and word not in COMMON)


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def words_of(labels: Iterable[str]) -> frozenset[str]:
    """All content words of the labels."""
    return frozenset().union(*(content_words(label) for label in labels))
