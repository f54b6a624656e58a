"""One's own picture-text pairs, read as a stream: webdataset shards, Parquet, or CSV, with English and Chinese
captions.

    shards      *.tar: KEY.jpg (png, webp) with KEY.json {"en": ..., "zh": ...}, or KEY.en.txt and KEY.zh.txt
    tables      *.parquet with the columns image (bytes, or {"bytes": ...}), en, zh; *.csv with image (a path), en, zh

A language may be missing everywhere (a set of one language) or somewhere (then its caption is empty).
The pairs are brought into the form of captions.py one by one, so neither the set nor a shard has to fit into memory.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.captions import ITEMS, MORE, PICTURES
from compressor.data.concepts import equal_folds
from compressor.data.source import build_once
from profiles.errors import RequestError, require
from profiles.storage import cache_root, write_json

LANGUAGES = ("en", "zh")
IMAGES = ("jpg", "jpeg", "png", "webp")
KINDS = ("*.tar", "*.parquet", "*.csv")
REVISION = 1


@dataclass(frozen=True)
class Pair:
    """`name` is unique in the set; `image` an encoded picture; `captions` by language, those that there are."""

    name: str
    image: bytes
    captions: Mapping[str, str]


def stream_pairs(root: Path) -> Iterator[Pair]:
    """The pairs of a file or of a folder's files, in the order of their names.

    Raises RequestError naming the file and the pair where something is missing or not readable.
    """
    for path in _files(root):
        read = {".tar": _tar, ".parquet": _parquet, ".csv": _csv}[path.suffix]
        yield from read(path)


def _files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else sorted(path for kind in KINDS for path in root.glob(kind))
    if not files or files[0].suffix not in {kind[1:] for kind in KINDS}:
        raise RequestError(f"{root}: no webdataset shards (.tar), .parquet or .csv of pairs there")
    return files


def _tar(path: Path) -> Iterator[Pair]:
    """Members of one key stand together, as webdataset wants it."""
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, kind = file.partition(".")
                own = f"{folder}/{stem}" if folder else stem
                if own != key and parts:
                    yield _from_parts(path, key, parts)
                    parts = {}
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                key, parts[kind.lower()] = own, content.read()
    except tarfile.TarError as error:
        raise RequestError(f"{path}: not a readable shard ({error})") from None
    if parts:
        yield _from_parts(path, key, parts)


def _from_parts(path: Path, key: str, parts: Mapping[str, bytes]) -> Pair:
    image = next((parts[kind] for kind in IMAGES if kind in parts), None)
    try:
        table = json.loads(parts.get("json", b"{}"))
        captions = {code: parts[f"{code}.txt"].decode() for code in LANGUAGES if f"{code}.txt" in parts}
    except ValueError as error:
        raise RequestError(f"{path}: {key}: its captions are not readable ({error})") from None
    return _pair(f"{path.name}/{key}", image, {**table, **captions}, path)


def _csv(path: Path) -> Iterator[Pair]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            where = path.parent / (row.get("image") or "")
            if not where.is_file():
                raise RequestError(f"{path}: {row.get('image')!r}: no such picture beside the table")
            yield _pair(f"{path.name}/{row['image']}", where.read_bytes(), row, path)


def _parquet(path: Path) -> Iterator[Pair]:
    """Batch by batch: a row group is never read as a whole."""
    parquet: Any = require("pyarrow.parquet", "clip")
    with parquet.ParquetFile(path) as table:
        names = [name for name in ("image", *LANGUAGES) if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=names):
            for row in batch.to_pylist():
                image = row.get("image")
                yield _pair(f"{path.name}/{number}", image["bytes"] if isinstance(image, dict) else image, row, path)
                number += 1


def _pair(name: str, image: bytes | None, texts: Mapping[str, Any], path: Path) -> Pair:
    captions = {code: str(texts[code]).strip() for code in LANGUAGES if texts.get(code)}
    if not image or not captions:
        raise RequestError(f"{path}: {name}: it has no {'picture' if not image else 'caption in en or zh'}")
    return Pair(name, image, captions)


def fetch_stream(root: Path, picture_px: int) -> Path:
    """The set in the form of captions.py, in the cache: built in two passes (captions, then pictures) unless it is
    there.
    """
    if not root.exists():
        raise RequestError(f"{root}: neither a data source nor a file or folder of pairs")
    facts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _files(root)]
    digest = hashlib.sha256(json.dumps([REVISION, str(root.resolve()), picture_px, facts]).encode()).hexdigest()
    return build_once(
        cache_root() / "data" / f"pairs-{digest[:16]}", root.name, lambda path: _fill(path, root, picture_px)
    )


def _fill(directory: Path, root: Path, picture_px: int) -> Mapping[str, Any]:
    items: list[dict[str, Any]] = []
    for pair in stream_pairs(root):
        captions = {code: {"label": pair.captions.get(code, ""), "tags": []} for code in LANGUAGES}
        items.append({"name": pair.name, "concept": pair.name, "more": [0, 0], **captions})
    folds = equal_folds([item["name"] for item in items])
    write_json(directory / ITEMS, [{**item, "fold": int(fold)} for item, fold in zip(items, folds, strict=True)])
    shape = (len(items), 1, picture_px, picture_px, 3)
    pictures = np.lib.format.open_memmap(directory / PICTURES, mode="w+", dtype=np.uint8, shape=shape)
    for number, pair in enumerate(stream_pairs(root)):
        pictures[number, 0] = decode_picture(pair.image, picture_px, pair.name)
    pictures.flush()
    np.save(directory / MORE, np.zeros((0, picture_px, picture_px, 3), np.uint8), allow_pickle=False)
    languages = [code for code in LANGUAGES if any(item[code]["label"] for item in items)]
    return {"vendors": ["own"], "languages": languages, "pairs": len(items), "packages": []}


def decode_picture(content: bytes, px: int, name: str) -> np.ndarray:
    """(px, px, 3) uint8: the whole picture, centred on white. Raises RequestError if it is not readable."""
    image_module: Any = require("PIL.Image", "report")
    try:
        picture = image_module.open(io.BytesIO(content)).convert("RGBA")
    except (OSError, ValueError) as error:
        raise RequestError(f"{name}: not a readable picture ({error})") from None
    canvas = image_module.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    canvas.thumbnail((px, px), image_module.Resampling.LANCZOS)
    if max(canvas.size) < px:
        scale = px / max(canvas.size)
        canvas = canvas.resize([max(1, round(side * scale)) for side in canvas.size], image_module.Resampling.BICUBIC)
    square = image_module.new("RGB", (px, px), "white")
    square.paste(canvas.convert("RGB"), ((px - canvas.width) // 2, (px - canvas.height) // 2))
    return np.asarray(square)
