"""The text tower's tokenizer: nothing is unknown, every text comes back, and two implementations give the same ids."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from compressor.tasks.clip.tokenizer import Tokenizer
from profiles.errors import RequestError
from tests.compressor.clip_toy import toy_pairs
from tests.tools import need_module

WORDS = [
    "raised hand",
    "Grinning",
    "crème",
    "举起手",
    "华夫饼",
    "，",
    "👩‍👩‍👧‍👦",
    "1️⃣",
    "  ",
    "\r\n",
    "▁",
    "<pad>",
    "\u200d",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_module("tokenizers")
    from compressor.tasks.clip.tokenizer_training import train_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([text for _, _, en, zh in toy_pairs() for text in (en, zh)], 400, path)
    return path


def random_text(rng: random.Random) -> str:
    kinds = [
        lambda: chr(rng.randrange(32, 127)),
        lambda: chr(rng.randrange(0x4E00, 0xA000)),
        lambda: chr(rng.randrange(0x1F300, 0x1FB00)),
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
        lambda: rng.choice(WORDS),
    ]
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(20)))


def test_ten_thousand_random_texts_have_the_ids_of_the_training_library_and_come_back(path: Path) -> None:
    import tokenizers

    ours, theirs, rng = Tokenizer(path), tokenizers.Tokenizer.from_file(str(path)), random.Random(7)
    texts = [random_text(rng) for _ in range(10_000)]
    expected = [encoding.ids for encoding in theirs.encode_batch(texts)]
    for text, ids in zip(texts, expected, strict=True):
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids) == text, repr(text)


def test_words_that_were_learned_are_few_ids_and_others_their_bytes(path: Path) -> None:
    tokenizer = Tokenizer(path)
    assert len(tokenizer.encode("a red square on the left")) <= 6
    assert len(tokenizer.encode("齉")) == len("齉".encode())


def test_a_batch_is_padded_and_cut_and_an_empty_text_has_a_token(path: Path) -> None:
    tokenizer = Tokenizer(path)
    batch = tokenizer.batch(["A red", "", "x" * 90], 8)
    assert batch["ids"].dtype == np.int32 and batch["ids"].shape == (3, 8)
    first = tokenizer.encode(" a red")
    assert batch["ids"][0].tolist() == first + [tokenizer.pad] * (8 - len(first))
    assert batch["mask"].sum(1).tolist() == [len(first), 1, 8]


def test_a_first_word_is_the_word_that_it_is_elsewhere(path: Path) -> None:
    tokenizer = Tokenizer(path)
    ids = tokenizer.batch(["Red", "a red", "红", "-red"], 8)["ids"]
    red = tokenizer.encode(" red")
    assert ids[0][: len(red)].tolist() == red and ids[1][1 : 1 + len(red)].tolist() == red
    for row, text in ((2, "红"), (3, "-red")):
        assert ids[row][: len(tokenizer.encode(text))].tolist() == tokenizer.encode(text)


def test_half_a_surrogate_pair_is_read_as_the_replacement_character(path: Path) -> None:
    assert Tokenizer(path).decode(Tokenizer(path).encode("a\ud83d")) == "a\ufffd"


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(RequestError, match="not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
