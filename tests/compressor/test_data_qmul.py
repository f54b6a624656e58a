"""A copy of ShoeV2 or ChairV2, as published, is read whole: strokes, photos, the published parts."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data.pairs import load_pairs
from compressor.data.qmul import read_sketches, sketch_from_points
from profiles.errors import RequestError
from tests.compressor.qmul_copy import corners, draw_copy, strokes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shoes(tmp_path: Path) -> Path:
    return draw_copy(tmp_path / "ShoeV2")


def change(root: Path, **changes: Any) -> None:
    """Rewrite the coordinates; None takes an entry away. Names have no slashes here: "train__x" is "/train/x"."""
    file = root / f"{root.name}_Coordinate"
    entries = pickle.loads(file.read_bytes())
    for name, value in changes.items():
        key = "/" + name.replace("__", "/")
        entries.pop(key, None)
        if value is not None:
            entries[key] = value
    file.write_bytes(pickle.dumps(entries, protocol=3))


def test_a_photo_is_one_pair_with_all_its_sketches(shoes: Path) -> None:
    pairs = load_pairs(shoes)
    assert len(pairs) == 17 and pairs.name == "ShoeV2" and pairs.photo_px == 256
    assert sorted(pairs.label(index) for index in range(17)) == [f"shoe_{number:02}_Red" for number in range(17)]
    for index in range(17):
        number = int(pairs.label(index).split("_")[1])
        sketches = pairs.sketches(index)
        assert len(sketches) == 1 + number % 3
        for hand, sketch in enumerate(sketches):
            drawn = strokes(number, hand)
            np.testing.assert_allclose(sketch.points * 256, drawn[:, :2], rtol=1e-5)
            assert len(sketch) == 2 and sketch.offsets[1] == np.flatnonzero(drawn[:, 2])[0] + 1
        np.testing.assert_array_equal(pairs.sketch(index).points, sketches[0].points)
        middle = pairs.photos(index)[0, 128, 128]
        assert middle.tolist() == [9 * number, 200 - 8 * number, 60]
    assert pairs.manifest["sketches"] == sum(1 + number % 3 for number in range(17))
    assert pairs.drawings() == []


def test_a_query_s_truth_is_its_photo_in_a_gallery_that_has_every_photo_once(shoes: Path) -> None:
    pairs = load_pairs(shoes)
    chosen = np.array([16, 2, 7])
    sketches, truth = pairs.queries(chosen)
    assert len(sketches) == len(truth) == sum(len(pairs.sketches(int(index))) for index in chosen)
    for sketch, place in zip(sketches, truth, strict=True):
        assert any(np.array_equal(sketch.points, own.points) for own in pairs.sketches(int(chosen[place])))
    assert pairs.photos(chosen).shape == (3, 1, 256, 256, 3)


def test_the_test_part_is_the_published_one_and_never_dealt_anew(shoes: Path) -> None:
    pairs = load_pairs(shoes)
    split = pairs.split(0, validation_share=0.25, by="concept")
    assert {pairs.label(int(index)) for index in split.test} == {f"shoe_{number:02}_Red" for number in range(12, 17)}
    assert len(split.train) == 9 and len(split.validation) == 3
    with pytest.raises(RequestError, match="fold 1: ShoeV2 has the folds 0 to 0"):
        pairs.split(1, by="concept")
    with pytest.raises(RequestError, match=r"a test part of its own; use data\.by=concept"):
        pairs.split(0, by="item")


def test_a_sketch_lies_on_its_photo_upright(shoes: Path) -> None:
    """y points down in both: corners of the drawing are corners of the shape."""
    pairs = load_pairs(shoes)
    index = next(i for i in range(17) if pairs.label(i) == "shoe_10_Red")
    np.testing.assert_allclose(pairs.sketch(index).points[:-1] * 256, corners(10), atol=4.01)
    ink = pairs.photos(index)[0].min(axis=2) < 128
    rows, columns = np.nonzero(ink)
    assert np.abs([columns.min() - corners(10)[:, 0].min(), rows.min() - corners(10)[:, 1].min()]).max() < 2


def test_other_forms_of_the_same_copy_give_the_same_set(shoes: Path, tmp_path: Path) -> None:
    """Coordinates beside the folder, and photos in trainB and testB with the sketches as pictures beside them."""
    whole = load_pairs(shoes)
    other = tmp_path / "other" / "ShoeV2"
    for name in ("trainA", "testA", "trainB", "testB"):
        (other / name).mkdir(parents=True)
    for path in (shoes / "photo").iterdir():
        shutil.copy(path, other / ("testB" if int(path.name[5:7]) >= 12 else "trainB"))
    shutil.copy(shoes / "ShoeV2_Coordinate", other.parent / "ShoeV2_Coordinate")
    moved = load_pairs(other)
    assert moved.hash == whole.hash and moved.items == whole.items


def test_an_unchanged_copy_is_read_once_and_photos_come_at_the_size_asked_for(shoes: Path) -> None:
    first = load_pairs(shoes)
    time = (first.path / "photos.npy").stat().st_mtime_ns
    assert (load_pairs(shoes).path / "photos.npy").stat().st_mtime_ns == time
    small = load_pairs(shoes, photo_px=32)
    assert small.photo_px == 32 and small.path != first.path


@pytest.mark.parametrize(
    ("points", "what"),
    [
        (np.zeros((0, 3)), "shape"),
        (np.zeros((4, 2)), "shape"),
        (np.array([[1.0, 2.0, 0.5]]), "pen state"),
        (np.array([[1.0, np.nan, 0.0]]), "pen state"),
        (np.array([[700.0, 2.0, 1.0]]), "out of the 256 px canvas"),
    ],
)
def test_points_that_are_none_are_refused(points: np.ndarray, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        sketch_from_points(points)


def test_the_pen_parts_strokes_also_where_the_last_point_does_not_lift_it() -> None:
    sketch = sketch_from_points(np.array([[0, 0, 0], [64, 0, 1], [128, 128, 1], [0, 256, 0], [256, 256, 0]], float))
    assert sketch.offsets.tolist() == [0, 2, 3, 5] and sketch.points[-1].tolist() == [1, 1]
    assert sketch.widths == pytest.approx(3 / 256)


def spoil(root: Path, action: str) -> str:
    match action:
        case "a photo is missing":
            (root / "photo" / "shoe_03_Red.png").unlink()
            return r"photo: no photo shoe_03_Red\.png; 1 of 17 are missing"
        case "no strokes":
            (root / "ShoeV2_Coordinate").unlink()
            (root / "trainA").mkdir()
            return "sketches as pictures only; add ShoeV2_Coordinate"
        case "two files of strokes":
            shutil.copy(root / "ShoeV2_Coordinate", root / "ChairV2_Coordinate")
            return "ChairV2_Coordinate and ShoeV2_Coordinate; keep the one of this set"
        case "a name without a part":
            change(root, shoe_00_Red_9=strokes(0, 0))
            return r"'/shoe_00_Red_9': expected a name such as /train/PHOTO_1"
        case "a photo in both parts":
            change(root, test__shoe_00_Red_9=strokes(0, 0))
            return "'shoe_00_Red' has sketches in train and in test"
        case "points of another canvas":
            change(root, train__shoe_00_Red_1=strokes(0, 0) * [3.1, 3.1, 1])
            return "/train/shoe_00_Red_1: points out of the 256 px canvas"
        case "no test part":
            change(root, **{f"test__shoe_{n}_Red_{hand}": None for n in range(12, 17) for hand in (1, 2, 3)})
            return "no sketches of the test part"
        case "no pickle":
            (root / "ShoeV2_Coordinate").write_bytes(b"x")
            return "ShoeV2_Coordinate: not a pickle of arrays"
        case "a broken photo":
            (root / "photo" / "shoe_03_Red.png").write_bytes(b"x")
            return r"shoe_03_Red\.png: not a readable picture"
    raise AssertionError(action)


@pytest.mark.parametrize(
    "action",
    [
        "a photo is missing",
        "no strokes",
        "two files of strokes",
        "a name without a part",
        "a photo in both parts",
        "points of another canvas",
        "no test part",
        "no pickle",
        "a broken photo",
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(shoes: Path, cache: Path, action: str) -> None:
    with pytest.raises(RequestError, match=spoil(shoes, action)) as caught:
        load_pairs(shoes)
    assert "\n" not in str(caught.value) and str(shoes) in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_copy_with_one_photo_more_than_sketches_leaves_it_out(shoes: Path) -> None:
    shutil.copy(shoes / "photo" / "shoe_00_Red.png", shoes / "photo" / "unseen.png")
    assert len(load_pairs(shoes)) == 17
    assert len(read_sketches(shoes / "ShoeV2_Coordinate")) == 17
