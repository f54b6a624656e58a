"""The text tower's tokenizer on a device: byte-level BPE in pure Python. No character is unknown, and every text
comes back.

The asset tokenizer.json is what the library `tokenizers` writes (see tokenizer_training.py); both readers give the
same ids. A text is cut into words (WORDS), a word is its UTF-8 bytes, and neighbouring pieces are joined in the order
of the merges. Source: Sennrich et al. 2016 (BPE), on bytes as in GPT-2 (Radford et al. 2019).
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError

# Ranges instead of character classes: Unicode tables differ between libraries and versions.
WORDS = r" ?[A-Za-z]+|[\u4e00-\u9fff]+|[0-9]|[^A-Za-z0-9\u4e00-\u9fff]"
SURROGATE = re.compile("[\ud800-\udfff]")


def prepared(text: str) -> str:
    """What a tower reads of a text: lower case, and a space before a first word, so that it is the word that it is
    elsewhere; of an empty text a line break."""
    text = text.lower() or "\n"
    return f" {text}" if "a" <= text[0] <= "z" else text


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in tokenizer.json, GPT-2's table."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + number) for number, byte in enumerate(others)}


class Tokenizer:
    """`encode` and `decode`; `len(tokenizer)` ids, of which `pad` = len(tokenizer) is none."""

    def __init__(self, path: Path) -> None:
        try:
            model: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model"]
            self.ids: dict[str, int] = model["vocab"]
            merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path}: not a tokenizer ({type(error).__name__}: {error})") from None
        self.ranks: dict[tuple[str, ...], int] = {merge: rank for rank, merge in enumerate(merges)}
        self._letters = byte_letters()
        self._bytes = {letter: byte for byte, letter in self._letters.items()}
        self._tokens = {number: token for token, number in self.ids.items()}
        self._words = re.compile(WORDS, re.DOTALL)
        self._cached = functools.lru_cache(maxsize=20_000)(self._encode_word)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pad(self) -> int:
        return len(self.ids)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Half a surrogate pair, which is no text, counts as U+FFFD."""
        return [number for word in self._words.findall(SURROGATE.sub("\ufffd", text)) for number in self._cached(word)]

    def decode(self, ids: Sequence[int]) -> str:
        letters = "".join(self._tokens[int(number)] for number in ids)
        return bytes(self._bytes[letter] for letter in letters).decode("utf-8", "replace")

    def batch(self, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """What the text tower takes: ids (n, length) int32, padded, and mask (n, length) float32, 1 on tokens.

        Texts are `prepared` first; what is longer is cut.
        """
        ids = np.full((len(texts), length), self.pad, np.int32)
        mask = np.zeros((len(texts), length), np.float32)
        for number, text in enumerate(texts):
            row = self.encode(prepared(text))[:length]
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return {"ids": ids, "mask": mask}

    def _encode_word(self, word: str) -> tuple[int, ...]:
        pieces = [self._letters[byte] for byte in word.encode()]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            pieces = _join(pieces, best)
        return tuple(self.ids[piece] for piece in pieces)


def _join(pieces: list[str], pair: tuple[str, ...]) -> list[str]:
    """Every occurrence of the pair as one piece, from the left."""
    joined: list[str] = []
    at = 0
    while at < len(pieces):
        if tuple(pieces[at : at + 2]) == pair:
            joined.append(pieces[at] + pieces[at + 1])
            at += 2
        else:
            joined.append(pieces[at])
            at += 1
    return joined
