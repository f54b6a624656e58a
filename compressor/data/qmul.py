"""QMUL-ShoeV2 and QMUL-ChairV2: photos of shoes and chairs, each drawn from memory by several people.

Read from a copy on disk as it is published and as the field's programs expect it:

    ShoeV2/ShoeV2_Coordinate     a pickle {"/train/PHOTO_NUMBER" or "/test/PHOTO_NUMBER": (points, 3) float64}
    ShoeV2/photo/PHOTO.png       256 x 256 (or trainB/ and testB/, in copies without photo/)

A row is x, y (256 px canvas, y down) and 1 where the pen leaves the paper after the point. The file may also lie
beside the folder. trainA/ and testA/, the same sketches as pictures, are not needed. One pair is one photo with all its
sketches; the test part is the published one. Sources: Yu et al., Sketch Me That Shoe (CVPR 2016); Bhunia et al., Sketch
Less for More (CVPR 2020), whose file of chairs holds 952 + 323 sketches of 300 + 100 photos.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.folder import PHOTOS, read_licence, read_photo
from compressor.data.layout import Layout
from compressor.data.pairs import write_pairs
from compressor.data.pickles import read_arrays
from compressor.data.sketch import Sketch
from compressor.data.source import build_once
from profiles.errors import RequestError
from profiles.storage import cache_root, sha256_file

REVISION = 1
SIDE = 256  # of the canvas that the coordinates are in, and of the photos
LINE_WIDTH = 3 / SIDE  # the field draws 1 px lines and dilates them once
COORDINATES = "_Coordinate"
PHOTO_FOLDERS = ("photo", "trainB", "testB")
SKETCH_FOLDERS = ("trainA", "testA")
PARTS = {"train": -1, "test": 0}  # to the fold: there is one, and the training part is in none


def recognises(root: Path) -> bool:
    """Whether a folder is laid out so, whole or not."""
    return root.is_dir() and (
        any(root.glob(f"*{COORDINATES}"))
        or _beside(root).is_file()
        or any((root / name).is_dir() for name in SKETCH_FOLDERS)
    )


def fetch(root: Path, photo_px: int | None = None) -> Path:
    """Read a copy into the cache and return the data set's directory; at once if it was read before, unchanged.

    Raises RequestError, naming the file, for whatever is wrong with it.
    """
    photo_px = photo_px or SIDE
    file = coordinates_file(root)
    sketches = read_sketches(file)
    photos = photo_files(root, [name for name, _ in sketches])
    names = sorted(sketches)  # by photo, then part
    hashes = {path.name: sha256_file(path) for path in [file, *(photos[name] for name, _ in names)]}
    key = hashlib.sha256(json.dumps([REVISION, photo_px, sorted(hashes.items())]).encode()).hexdigest()

    def fill(directory: Path) -> Mapping[str, Any]:
        items = [
            {"label": name, "concept": name, "fold": PARTS[part], "sketches": len(sketches[name, part])}
            for name, part in names
        ]
        drawn = [sketch for pair in names for sketch in sketches[pair]]
        write_pairs(directory, items, drawn, [read_photo(photos[name], photo_px)[None] for name, _ in names])
        credit = {"name": root.resolve().name, "version": "", "licence": read_licence(root), "url": "", "note": ""}
        return {
            "revision": REVISION,
            "packages": [credit],
            "vendors": ["photo"],
            "own_test_part": True,
            "pairs": len(names),
            "sketches": len(drawn),
        }

    return build_once(cache_root() / "data" / f"qmul-{key[:16]}", root.resolve().name, fill)


def _beside(root: Path) -> Path:
    return root.resolve().parent / f"{root.resolve().name}{COORDINATES}"


def coordinates_file(root: Path) -> Path:
    """The file of strokes, in the folder or beside it. Raises RequestError if there is none, or more than one."""
    found = sorted(root.glob(f"*{COORDINATES}")) or [path for path in [_beside(root)] if path.is_file()]
    if not found:
        raise RequestError(
            f"{root}: sketches as pictures only; add {root.resolve().name}{COORDINATES}, the file with their strokes"
        )
    if len(found) > 1:
        raise RequestError(f"{root}: {' and '.join(path.name for path in found)}; keep the one of this set")
    return found[0]


def read_sketches(file: Path) -> dict[tuple[str, str], list[Sketch]]:
    """(photo, "train" or "test") to the photo's sketches, in the file's order.

    Raises RequestError for a name that says no part or no photo, points out of the canvas, and a photo in both parts.
    """
    sketches: dict[tuple[str, str], list[Sketch]] = {}
    for name, points in read_arrays(file).items():
        part, _, drawing = name.strip("/").rpartition("/")
        photo, _, number = drawing.rpartition("_")
        if part not in PARTS or not photo or not number:
            raise RequestError(f"{file}: {name!r}: expected a name such as /train/PHOTO_1 or /test/PHOTO_1")
        try:
            sketch = sketch_from_points(points)
        except ValueError as error:
            raise RequestError(f"{file}: {name}: {error}") from None
        sketches.setdefault((photo, part), []).append(sketch)
    both = sorted(photo for photo, part in sketches if part == "test" and (photo, "train") in sketches)
    if both:
        raise RequestError(f"{file}: {both[0]!r} has sketches in train and in test; a photo belongs to one part")
    if missing := [part for part in PARTS if all(own != part for _, own in sketches)]:
        raise RequestError(f"{file}: no sketches of the {missing[0]} part")
    return sketches


def sketch_from_points(points: np.ndarray) -> Sketch:
    """(n, 3) x, y, pen to strokes in the unit square. Raises ValueError saying what is wrong."""
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points of shape {points.shape}, expected (n, 3)")
    if not np.isfinite(points).all() or not np.isin(points[:, 2], (0, 1)).all():
        raise ValueError("points that are not x, y and a pen state of 0 or 1")
    # A line that leaves the paper a little is drawn as far as the canvas goes; pixels of another canvas are a mistake.
    if points[:, :2].min() < -SIDE / 8 or points[:, :2].max() > SIDE * 9 / 8:
        raise ValueError(f"points out of the {SIDE} px canvas")
    ends = np.flatnonzero(points[:-1, 2] == 1) + 1
    return Sketch.from_strokes(np.split(points[:, :2] / SIDE, ends), LINE_WIDTH)


def photo_files(root: Path, names: list[str]) -> dict[str, Path]:
    """The photo of each name. Raises RequestError naming the first that is missing, and how many are."""
    folders = [root / name for name in PHOTO_FOLDERS if (root / name).is_dir()]
    there = {
        path.stem: path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() in PHOTOS
    }
    missing = sorted({name for name in names if name not in there})
    if missing:
        where = folders[0] if folders else root / PHOTO_FOLDERS[0]
        raise RequestError(f"{where}: no photo {missing[0]}.png; {len(missing)} of {len(set(names))} are missing")
    return {name: there[name] for name in names}


layout = Layout("qmul", recognises, fetch)
