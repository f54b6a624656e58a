"""Variants of a concept are found, and whole concepts are dealt into equal parts."""

import numpy as np
import pytest

from compressor.data.concepts import carve, concept_keys, equal_folds, group_by_keys


def related(*emoji: tuple[str, str]) -> bool:
    return len(set(group_by_keys([concept_keys(*one) for one in emoji]))) == 1


@pytest.mark.parametrize(
    "emoji",
    [
        [("1F9D1-200D-1F373", "cook"), ("1F468-200D-1F373", "man cook"), ("1F469-200D-1F373", "woman cook")],
        [("1F575", "detective"), ("1F575-FE0F-200D-2640-FE0F", "woman detective")],
        [("1F44B", "waving hand"), ("1F44B-1F3FD", "waving hand: medium skin tone")],
        [("1F483", "woman dancing"), ("1F57A", "man dancing")],
        [("1F6B6", "person walking"), ("1F6B6-200D-27A1-FE0F", "person walking: facing right")],
        [("1F550", "one o’clock"), ("1F55C", "one-thirty"), ("1F565", "ten-thirty")],
        [("0031-FE0F-20E3", "keycap: 1"), ("0023-FE0F-20E3", "keycap: #")],
        [("2764", "red heart"), ("1F49B", "yellow heart"), ("1FA75", "light blue heart")],
        [("1F468-200D-1F466", "family: man, boy"), ("1F46A", "family")],
        [("1F9DC", "merperson"), ("1F9DC-200D-2642-FE0F", "merman"), ("1F9DC-200D-2640-FE0F", "mermaid")],
    ],
)
def test_variants_are_one_concept(emoji):
    assert related(*emoji)


@pytest.mark.parametrize(
    "emoji",
    [
        [("1F9D1-200D-1F373", "cook"), ("1F9D1-200D-1F33E", "farmer")],
        [("1F468-200D-1F9B0", "man: red hair"), ("1F468-200D-1F9B2", "man: bald")],
        [("1F468", "man"), ("1F468-200D-1F373", "man cook")],
        [("1F494", "broken heart"), ("2764", "red heart")],
        [("2648", "Aries"), ("2649", "Taurus")],
    ],
)
def test_different_concepts_stay_apart(emoji):
    assert not related(*emoji)


def test_items_are_one_group_through_a_chain_of_shared_keys():
    assert group_by_keys([["a"], ["x"], ["b"], ["a", "b"], ["x", "y"]]) == [0, 1, 0, 0, 1]


def test_folds_are_equal_keep_concepts_together_and_do_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    concepts = [f"concept {index}" for index, size in enumerate(rng.integers(1, 9, 200)) for _ in range(size)]
    folds = equal_folds(concepts)
    sizes = np.bincount(folds)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 1
    by_concept = dict(zip(concepts, folds, strict=True))
    assert all(by_concept[concept] == fold for concept, fold in zip(concepts, folds, strict=True))
    order = rng.permutation(len(concepts))
    assert (equal_folds([concepts[index] for index in order]) == folds[order]).all()


def test_carving_takes_whole_concepts_up_to_the_count():
    concepts = ["big"] * 50 + [f"small {index}" for index in range(100)]
    taken = carve(concepts, 20, salt="a")
    assert sum(concept in taken for concept in concepts) == 20 and "big" not in taken
    assert carve(concepts, 20, salt="a") == taken != carve(concepts, 20, salt="b")
