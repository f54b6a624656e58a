"""A user's folder of pairs loads like any other set, and what is wrong with it is said in one line."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from compressor.data.folder import read_photo, sketch_from_json
from compressor.data.pairs import load_pairs
from profiles.errors import RequestError

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path d="M1,1L9,{}" stroke="#000" fill="none"/></svg>'
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Twelve pairs: eight by stem, two of them with two photos, four in sub-folders; and two drawings."""
    root = tmp_path / "chairs"
    (root / "drawings").mkdir(parents=True)
    for index in range(12):
        name, place = f"item{index:02}", root
        if index >= 8:
            place = root / name
            place.mkdir()
        if index % 2:
            (place / f"{name}.svg").write_text(SVG.format(index % 9))
        else:
            (place / f"{name}.json").write_text(json.dumps([[[0, 0], [10, index]], [[5, 5]]]))
        for photo in range(2 if index in (3, 9) else 1):
            color = (20 * index, 100 * photo, 7)
            Image.new("RGB", (30, 20), color).save(
                place / (f"{name}-{photo + 1}.png" if index in (3, 9) else f"{name}.png")
            )
    (root / "drawings/free.svg").write_text(SVG.format(3))
    (root / "drawings/loose.json").write_text("[[[1, 2], [3, 4]]]")
    (root / "LICENSE").write_text("\nCC0-1.0\nmore\n")
    (root / "notes.txt").write_text("hello")
    return root


def test_a_folder_loads_through_the_same_interface(folder):
    pairs = load_pairs(folder, photo_px=12)
    assert len(pairs) == 12 and pairs.name == "chairs"
    assert [pairs.label(index) for index in range(12)] == [f"item{index:02}" for index in range(12)]
    assert pairs.sketch(0).offsets.tolist() == [0, 2, 3]
    assert pairs.sketch(11).points == pytest.approx(np.array([[0.1, 0.1], [0.9, 0.2]]), abs=1e-6)
    # 30 x 20 becomes a 12 px square with two white rows above and below
    assert pairs.photos(5).shape == (2, 12, 12, 3)
    assert pairs.photos(5)[0, 6] == pytest.approx(np.full((12, 3), [100, 0, 7]), abs=4)
    assert (pairs.photos(5)[0, [0, 11]] > 250).all()
    assert pairs.photos(9)[1, 6, 6] == pytest.approx([180, 100, 7], abs=4)
    assert (pairs.photos(5)[0] == pairs.photos(5)[1]).all()  # fewer photos than others have: repeated
    assert len(pairs.drawings()) == 2
    assert pairs.credits[0]["licence"] == "CC0-1.0" and pairs.manifest["ignored"] == ["LICENSE", "notes.txt"]


@pytest.mark.parametrize("by", ["item", "concept"])
def test_splits_are_disjoint_and_cover_everything(folder, by):
    pairs = load_pairs(folder, photo_px=12)
    tested = []
    for fold in range(5):
        split = pairs.split(fold, validation_share=0.2, by=by)
        parts = [set(part.tolist()) for part in (split.train, split.validation, split.test)]
        assert sum(map(len, parts)) == 12 and set.union(*parts) == set(range(12)) and all(parts)
        if by == "concept":
            assert parts[2] == {index for index in range(12) if pairs.fold(index) == fold}
        tested += split.test.tolist()
    assert sorted(tested) == list(range(12))
    with pytest.raises(RequestError, match="fold 5: chairs has the folds 0 to 4"):
        pairs.split(5)


def test_an_unchanged_folder_is_read_once_and_a_changed_one_again(folder):
    first = load_pairs(folder, photo_px=12)
    time = (first.path / "photos.npy").stat().st_mtime_ns
    again = load_pairs(folder, photo_px=12)
    assert again.path == first.path and (again.path / "photos.npy").stat().st_mtime_ns == time
    (folder / "item01.svg").write_text(SVG.format(8))
    changed = load_pairs(folder, photo_px=12)
    assert changed.hash != first.hash and changed.sketch(1).points[1, 1] == pytest.approx(0.8)


def spoil(folder, action):
    match action:
        case "broken photo":
            (folder / "item02.png").write_bytes(b"no png")
            return r"item02\.png: not a readable picture"
        case "photo without sketch":
            (folder / "extra-2.png").write_bytes(b"")
            return r"extra-2\.png: no sketch belongs to this photo; add extra\.svg or extra\.json"
        case "sketch without photo":
            (folder / "item02.png").unlink()
            return r"item02\.json: no photo belongs to this sketch; add item02\.png"
        case "two sketches":
            (folder / "item02.svg").write_text(SVG.format(1))
            return r"item02\.svg: item02\.json is a sketch of the same item"
        case "empty sub-folder":
            (folder / "empty").mkdir()
            return r"empty: 0 sketches .* and 0 photos"
        case "same name twice":
            (folder / "item09.svg").write_text(SVG.format(1))
            (folder / "item09.png").write_bytes(b"")
            return "two items are named 'item09'"
        case "broken svg":
            (folder / "item01.svg").write_text("<svg")
            return r"item01\.svg: not a readable SVG"
        case "blank svg":
            (folder / "item01.svg").write_text(SVG.format(1).replace("#000", "#fff"))
            return r"item01\.svg: no dark stroke or fill"
        case "broken json":
            (folder / "item02.json").write_text("[[")
            return r"item02\.json: not valid JSON"
        case "wrong json":
            (folder / "item02.json").write_text("[[[1, 2], [3]]]")
            return r"item02\.json: stroke 0 is not a list of \[x, y\]"
        case "too few":
            for index in range(1, 8):
                for path in folder.glob(f"item0{index}*"):
                    if path.is_file():
                        path.unlink()
            return "chairs: 5 pairs .* at least 10 are needed"


@pytest.mark.parametrize(
    "action",
    [
        "broken photo",
        "photo without sketch",
        "sketch without photo",
        "two sketches",
        "empty sub-folder",
        "same name twice",
        "broken svg",
        "blank svg",
        "broken json",
        "wrong json",
        "too few",
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(folder, cache, action):
    message = spoil(folder, action)
    with pytest.raises(RequestError) as caught:
        load_pairs(folder, photo_px=12)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match="nowhere: neither a data source nor a folder of pairs"):
        load_pairs(tmp_path / "nowhere")


def test_stroke_json_is_scaled_into_the_canvas():
    sized = sketch_from_json({"strokes": [[[0, 0], [200, 100]]], "size": [200, 100], "width": 4})
    assert sized.points == pytest.approx(np.array([[0, 0.25], [1, 0.75]]))
    assert sized.widths == pytest.approx([0.02])
    fitted = sketch_from_json([[[100, 50], [140, 50]], [[120, 60]]])
    assert fitted.points == pytest.approx(np.array([[0.05, 0.3875], [0.95, 0.3875], [0.5, 0.6125]]))
    dot = sketch_from_json([[[7, 7]]])
    assert dot.points == pytest.approx(np.array([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"lines": []}, "an object with strokes"),
        ({"strokes": [[[0, 1]]], "colour": 3}, "an object with strokes"),
        ([], "list of strokes"),
        ("abc", "list of strokes"),
        ([[[0, 1]], [[1, "x"]]], "stroke 1"),
        ([[[0, 1, 2], [3, 4, 5], [6, 7, 8]]], "stroke 0"),
        ([[[0, float("nan")]]], "stroke 0"),
        ({"strokes": [[[0, 1]]], "size": [0, 1]}, "size is"),
        ({"strokes": [[[0, 1]]], "width": -1}, "width is"),
    ],
)
def test_wrong_stroke_json_says_what_is_expected(value, message):
    with pytest.raises(ValueError, match=message):
        sketch_from_json(value)


def test_photos_are_upright_and_on_white(tmp_path):
    picture = Image.new("RGB", (8, 8), "white")
    picture.paste("blue", (0, 0, 4, 8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show: the left becomes the top
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = read_photo(tmp_path / "turned.png", 8)
    assert (pixels[:4] == [0, 0, 255]).all() and (pixels[4:] == 255).all()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_photo(tmp_path / "clear.png", 4) == 255).all()
