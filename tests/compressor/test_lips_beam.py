"""The beam finds the best text, by trying all of them; edit distance and slots are those of their definitions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from compressor.tasks.lips.beam import beam_search, log_softmax
from compressor.tasks.lips.vocabulary import EDGE, Vocabulary, edit_distance, slot_is_right

VOCABULARY, HIDDEN, FRAMES, DIM, LONGEST, POWER = 5, 4, 3, 2, 4, 0.7


class Toy:
    """A decoder whose state is a random mix of all characters so far, so that the order of a text matters."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.mix = rng.standard_normal((HIDDEN, HIDDEN)).astype(np.float32)
        self.read = rng.standard_normal((VOCABULARY, HIDDEN)).astype(np.float32)
        self.out = 2 * rng.standard_normal((HIDDEN + DIM, VOCABULARY)).astype(np.float32)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        state = np.tanh(feeds["state1"] @ self.mix + feeds["previous"] @ self.read)
        weights = feeds["mask"] / feeds["mask"].sum(1, keepdims=True)
        context = (weights[..., None] * feeds["memory"]).sum(1)
        logits = np.concatenate([state, context], axis=1) @ self.out
        return {"logits": logits, "state1_out": state, "state2_out": feeds["state2"], "attention": weights}


def clip(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((1, FRAMES, DIM)).astype(np.float32), np.ones((1, FRAMES), np.float32)


def score_by_hand(toy: Toy, memory: np.ndarray, mask: np.ndarray, text: tuple[int, ...]) -> float:
    state, last, total = np.zeros((1, HIDDEN), np.float32), EDGE, 0.0
    for token in (*text, EDGE):
        one_hot = np.eye(VOCABULARY, dtype=np.float32)[[last]]
        found = toy({"previous": one_hot, "memory": memory, "mask": mask, "state1": state, "state2": state})
        total += float(log_softmax(found["logits"])[0, token])
        state, last = found["state1_out"], token
    return total / (len(text) + 1) ** POWER


search = functools.partial(
    beam_search, vocabulary=VOCABULARY, hidden=HIDDEN, longest=LONGEST, length_power=POWER
)  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_best_of_all_texts(seed: int) -> None:
    toy, (memory, mask) = Toy(seed), clip(seed)
    texts = [text for length in range(LONGEST) for text in itertools.product(range(2, VOCABULARY), repeat=length)]
    by_trying = max(texts, key=lambda text: score_by_hand(toy, memory, mask, text))
    (found,) = search(toy, memory, mask, width=100)
    assert tuple(found.tokens) == by_trying
    assert found.score == pytest.approx(score_by_hand(toy, memory, mask, by_trying), rel=1e-5)
    assert found.attention.shape == (len(found.tokens), FRAMES)


def test_clips_that_are_read_side_by_side_do_not_touch_each_other() -> None:
    toy, clips = Toy(7), [clip(seed) for seed in range(4)]
    together = search(toy, *(np.concatenate(parts) for parts in zip(*clips, strict=True)), width=3)
    alone = [search(toy, *one, width=3)[0] for one in clips]
    assert [reading.tokens for reading in together] == [reading.tokens for reading in alone]


def distance_by_recursion(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        distance_by_recursion(a[1:], b) + 1,
        distance_by_recursion(a, b[1:]) + 1,
        distance_by_recursion(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_edit_distance_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 6))) for _ in range(2))
        assert edit_distance(a, b) == distance_by_recursion(a, b)
    assert edit_distance("kitten", "sitting") == 3


def test_the_hard_word_is_found_by_its_number_or_by_its_place() -> None:
    truth = "bin blue at p nine now"
    slot = (12, 13)
    assert truth[slice(*slot)] == "p"
    assert slot_is_right("set white with p one soon", truth, slot)
    assert not slot_is_right("bin blue at b nine now", truth, slot) and not slot_is_right("bin", truth, slot)
    assert slot_is_right("打给老包", "找到小包", (3, 4)) and not slot_is_right("打给老毛", "找到小包", (3, 4))


def test_a_text_is_the_same_after_its_tokens() -> None:
    words = Vocabulary.of(["place white", "now"])
    assert words.text([*words.tokens("now white"), EDGE, 5]) == "now white"
