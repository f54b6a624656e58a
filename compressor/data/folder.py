"""A folder of the user's own pairs, read into the form in which every data set is kept.

An item is a sub-folder with one sketch and at least one photo, or files beside each other that share a stem:

    chair.svg  chair.png                     one photo
    lamp.json  lamp-1.jpg  lamp-2.jpg        several photos
    table/sketch.svg  table/a.jpg            a sub-folder, files named freely
    drawings/*.svg, *.json                   sketches without a photo, for distillation (optional)
    LICENSE or LICENSE.txt                   its first line goes into the credits (optional)

A sketch is an SVG drawing, or JSON: a list of strokes, each a list of [x, y] with y down, or an object

    {"strokes": [[[x, y], ...], ...], "size": [width, height], "width": line_width}

in any unit. Without `size` the drawing is fitted into the canvas with a margin of 5 %; without `width` lines are 1/36
of the canvas. Photos are centred on a white square and resized.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.concepts import equal_folds
from compressor.data.pairs import write_pairs
from compressor.data.sketch import Sketch
from compressor.data.source import build_once
from compressor.data.svg import parse_svg
from profiles.errors import RequestError, require
from profiles.storage import cache_root, read_json, sha256_file

REVISION = 1
SKETCHES = {".svg", ".json"}
PHOTOS = {".png", ".jpg", ".jpeg", ".webp"}
DRAWINGS = "drawings"
MARGIN = 0.05
LINE_WIDTH = 1 / 36
PHOTO_PX = 112
FEWEST_PAIRS = 10  # two for each of five folds


@dataclass(frozen=True)
class Item:
    name: str
    sketch: Path
    photos: tuple[Path, ...]


def fetch_folder(root: Path, photo_px: int | None = None) -> Path:
    """Read a folder into the cache and return the data set's directory; at once if it was read before, unchanged.

    Raises RequestError, naming the file, for whatever is wrong with it.
    """
    photo_px = photo_px or PHOTO_PX
    items, drawings, ignored = scan(root)
    read = [path for item in items for path in (item.sketch, *item.photos)] + drawings
    hashes = {path.relative_to(root).as_posix(): sha256_file(path) for path in read}
    key = hashlib.sha256(json.dumps([REVISION, photo_px, sorted(hashes.items())]).encode()).hexdigest()

    def fill(directory: Path) -> Mapping[str, Any]:
        sketches = [read_sketch(path) for path in [*(item.sketch for item in items), *drawings]]
        views = max(len(item.photos) for item in items)
        write_pairs(directory, _entries(items, drawings), sketches, list(_photos(items, views, photo_px)))
        credit = {"name": root.resolve().name, "version": "", "licence": read_licence(root), "url": "", "note": ""}
        vendors = [f"photo {number + 1}" for number in range(views)]
        counts = {"pairs": len(items), "drawings": len(drawings), "ignored": ignored}
        return {"revision": REVISION, "packages": [credit], "vendors": vendors, **counts}

    return build_once(cache_root() / "data" / f"folder-{key[:16]}", root.resolve().name, fill)


def scan(root: Path) -> tuple[list[Item], list[Path], list[str]]:
    """The items, sorted by name, the drawings without a photo, and the names of the files that are neither."""
    if not root.is_dir():
        raise RequestError(f"{root}: neither a data source nor a folder of pairs")
    items: list[Item] = []
    ignored: list[str] = []
    loose: list[Path] = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or entry.name == DRAWINGS:
            continue
        if entry.is_dir():
            items.append(_item_of_directory(entry))
        elif entry.suffix.lower() in SKETCHES | PHOTOS:
            loose.append(entry)
        else:
            ignored.append(entry.name)
    items = sorted([*items, *_items_by_stem(loose)], key=lambda item: item.name)
    for one, two in itertools.pairwise(items):
        if one.name == two.name:
            raise RequestError(f"{root}: two items are named {one.name!r}; rename one")
    if len(items) < FEWEST_PAIRS:
        raise RequestError(f"{root}: {len(items)} pairs of a sketch and a photo, at least {FEWEST_PAIRS} are needed")
    drawings = sorted(path for path in (root / DRAWINGS).glob("*") if path.suffix.lower() in SKETCHES)
    return items, drawings, ignored


def _item_of_directory(directory: Path) -> Item:
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    sketches = [path for path in files if path.suffix.lower() in SKETCHES]
    photos = tuple(path for path in files if path.suffix.lower() in PHOTOS)
    if len(sketches) != 1 or not photos:
        raise RequestError(
            f"{directory}: {len(sketches)} sketches (.svg, .json) and {len(photos)} photos (.png, .jpg, .webp); "
            f"an item's folder needs one sketch and at least one photo"
        )
    return Item(directory.name, sketches[0], photos)


def _items_by_stem(files: list[Path]) -> Iterator[Item]:
    sketches: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in SKETCHES:
            if path.stem in sketches:
                raise RequestError(f"{path}: {sketches[path.stem].name} is a sketch of the same item; keep one")
            sketches[path.stem] = path
    photos: dict[str, list[Path]] = {stem: [] for stem in sketches}
    for path in files:
        if path.suffix.lower() in PHOTOS:
            stem = path.stem if path.stem in sketches else re.sub(r"-\d+$", "", path.stem)
            if stem not in sketches:
                raise RequestError(f"{path}: no sketch belongs to this photo; add {stem}.svg or {stem}.json")
            photos[stem].append(path)
    for stem, sketch in sketches.items():
        if not photos[stem]:
            raise RequestError(f"{sketch}: no photo belongs to this sketch; add {stem}.png, or move it to {DRAWINGS}/")
        yield Item(stem, sketch, tuple(photos[stem]))


def read_sketch(path: Path) -> Sketch:
    """A sketch file, SVG or stroke JSON. Raises RequestError naming the file and what is wrong in it."""
    try:
        if path.suffix.lower() == ".svg":
            sketch = parse_svg(path.read_text(encoding="utf-8"))
        else:
            sketch = sketch_from_json(read_json(path))
    except (ValueError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: {error}") from None
    if not len(sketch):
        raise RequestError(f"{path}: no dark stroke or fill in it, so there is nothing to draw")
    return sketch


def sketch_from_json(value: Any) -> Sketch:
    """Strokes in the schema of this module's docstring. Raises ValueError saying which stroke is wrong."""
    if isinstance(value, dict):
        unknown = set(value) - {"strokes", "size", "width"}
        if unknown or "strokes" not in value:
            raise ValueError("expected a list of strokes, or an object with strokes and, optionally, size and width")
    else:
        value = {"strokes": value}
    strokes = value["strokes"]
    if not isinstance(strokes, list) or not strokes:
        raise ValueError("expected a list of strokes, each a list of [x, y]")
    arrays = []
    for number, stroke in enumerate(strokes):
        try:
            array = np.asarray(stroke, np.float64)
        except (TypeError, ValueError):
            array = np.zeros(0)
        if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
            raise ValueError(f"stroke {number} is not a list of [x, y] numbers")
        arrays.append(array)
    corner, side = _frame(np.concatenate(arrays), value.get("size"))
    width = value.get("width")
    if width is not None and not (isinstance(width, int | float) and width > 0):
        raise ValueError(f"width is {width!r}, expected a positive number in the unit of the points")
    return Sketch.from_strokes([(array - corner) / side for array in arrays], width / side if width else LINE_WIDTH)


def _frame(points: np.ndarray, size: Any) -> tuple[np.ndarray, float]:
    """Top left corner and side of the square that becomes the canvas."""
    if size is not None:
        if not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int | float) and v > 0 for v in size)):
            raise ValueError(f"size is {size!r}, expected [width, height]")
        low, extent = np.zeros(2), np.array(size, np.float64)
        side = float(extent.max())
    else:
        low, extent = points.min(axis=0), np.ptp(points, axis=0)
        side = float(extent.max()) / (1 - 2 * MARGIN) or 1.0
    return low - (side - extent) / 2, side


def read_photo(path: Path, size_px: int) -> np.ndarray:
    """(size_px, size_px, 3) uint8: upright (EXIF), on white, centred in a square. RequestError if it is no picture."""
    image, operations = require("PIL.Image", "train"), require("PIL.ImageOps", "train")
    try:
        with image.open(path) as opened:
            picture = operations.exif_transpose(opened).convert("RGBA")
    except Exception as error:  # PIL raises many types on a broken file
        raise RequestError(f"{path}: not a readable picture ({error})") from None
    side = max(picture.size)
    square = image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.convert("RGB").resize((size_px, size_px), image.Resampling.LANCZOS))


def _photos(items: list[Item], views: int, photo_px: int) -> Iterator[np.ndarray]:
    """(views, photo_px, photo_px, 3) per item; an item with fewer photos repeats them."""
    for item in items:
        own = [read_photo(path, photo_px) for path in item.photos]
        yield np.stack([own[view % len(own)] for view in range(views)])


def _entries(items: list[Item], drawings: list[Path]) -> list[dict[str, Any]]:
    names = [item.name for item in items]
    folds = equal_folds(names)
    paired = [{"label": name, "concept": name, "fold": int(fold)} for name, fold in zip(names, folds, strict=True)]
    return paired + [{"label": path.stem, "concept": f"{DRAWINGS}/{path.stem}", "fold": -1} for path in drawings]


def read_licence(root: Path) -> str:
    """The first line of the folder's licence file, or "not stated"."""
    for name in ("LICENSE", "LICENSE.txt", "LICENCE", "LICENCE.txt"):
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in lines if line.strip()), "not stated")
    return "not stated"
