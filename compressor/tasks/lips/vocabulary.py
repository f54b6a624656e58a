"""Characters as tokens, and the measures of what was read. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

BLANK, EDGE = 0, 1
FIRST = 2  # token of the first character


class Vocabulary:
    """`characters` in the order of their tokens. Tokens 0 and 1 are no characters."""

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self._token = {character: FIRST + place for place, character in enumerate(self.characters)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """Every character that occurs, sorted."""
        return cls(sorted({character for text in texts for character in text}))

    def __len__(self) -> int:
        return FIRST + len(self.characters)

    def tokens(self, text: str) -> list[int]:
        """Raises KeyError for a character that is not in it."""
        return [self._token[character] for character in text]

    def text(self, tokens: Iterable[int]) -> str:
        """Up to the first EDGE; BLANK is left out."""
        characters = []
        for token in tokens:
            if token == EDGE:
                break
            if token >= FIRST:
                characters.append(self.characters[token - FIRST])
        return "".join(characters)


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Insertions, deletions and substitutions that turn a into b (Levenshtein 1966)."""
    row = np.arange(len(b) + 1)
    places = np.arange(1, len(b) + 1)
    for item in a:
        changed = row[:-1] + np.array([item != other for other in b], dtype=int)
        best = np.minimum(changed, row[1:] + 1)
        first = row[0] + 1
        # An insertion costs one per place to the right: a running minimum of (cost - place).
        best = np.minimum.accumulate(np.concatenate([[first], best - places]))[1:] + places
        row = np.concatenate([[first], np.minimum(best, first + places)])
    return int(row[-1])


def slot_is_right(read: str, truth: str, slot: tuple[int, int]) -> bool:
    """Whether the characters at `slot` of the truth, one or more words of it, were read at the same place: as the words
    of the same numbers where there are spaces, else as the same characters."""
    first, end = slot
    if " " not in truth:
        return read[first:end] == truth[first:end]
    own, number = truth[first:end].split(" "), truth[:first].count(" ")
    return read.split(" ")[number : number + len(own)] == own
