"""The real demo data: what METHODS says of it, and no leak between its parts. Fetched once into the user's cache."""

import collections
import os

import numpy as np
import pytest

from compressor.data.pairs import load_pairs
from compressor.data.words import words_of
from profiles.errors import MissingError
from tests.tools import need


@pytest.fixture(scope="module")
def pairs():
    need("npm")
    try:
        return load_pairs("openmoji")
    except MissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def number_of(pairs, hexcode: str) -> int:
    return [item["hexcode"] for item in pairs.items].index(hexcode)


def test_every_concept_with_all_three_pictures_is_a_pair(pairs):
    # 1,644 have all three; the line drawing of one, U+1F195, is empty in OpenMoji 17.0.0
    assert len(pairs) == 1643 and pairs.manifest["blank"] == ["1F195"]
    assert pairs.vendors == ("noto", "twemoji", "openmoji")
    assert {credit["licence"] for credit in pairs.credits} == {"CC-BY-SA-4.0", "Apache-2.0", "CC-BY-4.0", "MIT"}
    groups = collections.Counter(item["group"] for item in pairs.items)
    assert "flags" not in groups and not any("extras" in group for group in groups)


def test_folds_are_equal_and_variants_share_one(pairs):
    folds = [pairs.fold(index) for index in range(len(pairs))]
    assert set(np.bincount(folds)) == {328, 329}
    for variants in (
        ("1F9D1-200D-1F373", "1F468-200D-1F373", "1F469-200D-1F373"),  # cook
        ("0030-FE0F-20E3", "0039-FE0F-20E3", "1F51F"),  # keycaps
        ("1F550", "1F55B", "1F567"),  # clock faces
        ("2764", "1F49B", "1F90D"),  # hearts, which the line drawing cannot tell apart
    ):
        assert len({pairs.fold(number_of(pairs, hexcode)) for hexcode in variants}) == 1


def test_split_by_concept_no_concept_nor_line_drawing_is_in_two_parts(pairs):
    for fold in range(5):
        split = pairs.split(fold, by="concept")
        parts = [{pairs.concept(int(index)) for index in part} for part in (split.train, split.validation, split.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(split.validation) == pytest.approx(len(pairs) * 0.8 * 0.125, abs=1)
        lines = {pairs.sketch(int(index)).points.tobytes() for part in (split.validation, split.test) for index in part}
        assert not any(pairs.sketch(int(index)).points.tobytes() in lines for index in split.train)
        assert not any(drawing.points.tobytes() in lines for drawing in pairs.drawings(split))


def test_split_by_item_the_parts_are_disjoint_and_no_unpaired_drawing_shows_a_held_out_concept(pairs):
    tested = []
    for fold in range(5):
        split = pairs.split(fold, by="item")
        assert not set(split.train) & set(split.test) and not set(split.validation) & set(split.test)
        lines = {pairs.sketch(int(index)).points.tobytes() for part in (split.validation, split.test) for index in part}
        assert not any(drawing.points.tobytes() in lines for drawing in pairs.drawings(split))
        tested += split.test.tolist()
    assert sorted(tested) == list(range(len(pairs)))


def test_drawings_are_all_different_and_all_sketches_lie_on_the_canvas(pairs):
    drawings = pairs.drawings()
    assert len({drawing.points.tobytes() for drawing in drawings}) == len(drawings) == pairs.manifest["drawings"]
    for sketch in [*drawings, *(pairs.sketch(index) for index in range(len(pairs)))]:
        assert len(sketch) and sketch.points.min() > -0.05 and sketch.points.max() < 1.05


def test_photos_show_the_concept_in_the_vendors_colours(pairs):
    grinning = pairs.photos(number_of(pairs, "1F600"))
    assert grinning.shape == (3, 112, 112, 3) and (grinning[:, 0, 0] == 255).all()
    red, green, blue = grinning.astype(int).reshape(3, -1, 3).mean(axis=1).T
    assert (red > blue + 40).all() and (green > blue + 25).all()  # a yellow face, whoever drew it
    assert grinning[1, 30, 56].tolist() == [255, 204, 77]  # Twemoji's yellow, #FFCC4D
    many = pairs.photos(np.arange(0, len(pairs), 50))
    assert (many.reshape(*many.shape[:2], -1).std(axis=-1) > 5).all()  # none is blank


def test_further_pictures_show_the_concept_too(pairs):
    index = number_of(pairs, "1F600")
    more = pairs.more_photos(index)
    assert more.shape == (3, 112, 112, 3)  # Fluent, the first Noto, EmojiTwo
    red, _, blue = more.astype(int).reshape(3, -1, 3).mean(axis=1).T
    assert (red > blue + 40).all()
    counts = [len(pairs.more_photos(index)) for index in range(len(pairs))]
    assert max(counts) == 3 and np.mean([count > 0 for count in counts]) > 0.95


def icons_or_skip():
    try:
        return load_pairs("line-icons")
    except MissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_icons_that_share_a_word_with_a_held_out_label_are_left_out(pairs):
    split = pairs.split(0)
    held = words_of(pairs.label(int(index)) for index in np.concatenate([split.validation, split.test]))
    kept = icons_or_skip().drawings_without(held)
    assert 0 < len(kept) < len(icons_or_skip().drawings_without(()))


@pytest.mark.slow  # two minutes of reading SVGs where they are not in the cache yet
def test_line_icons_are_drawings_only():
    icons = icons_or_skip()
    drawings = icons.drawings()
    assert len(icons) == 0 and len(drawings) > 15000
    widths = np.concatenate([drawing.widths[drawing.filled == 0] for drawing in drawings])
    assert (widths == np.float32(2 / 72)).all()
