"""Directories whose files are listed with their SHA-256 in a JSON manifest: bundles and artifacts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from profiles.errors import RequestError
from profiles.storage import read_json, sha256_file


def read_manifest(root: Path, name: str, format_: int, what: str) -> dict[str, Any]:
    """Read `root/name`. Raises RequestError if it is not there, or is of another format version."""
    if not root.is_dir():
        raise RequestError(f"{root}: no such {what}")
    manifest = read_json(root / name)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != format_:
        raise RequestError(f"{root}: {what} of format {found}, this version reads format {format_}: make it again")
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("graphs"), dict):
        raise RequestError(f"{root / name}: lists no files or graphs: make the {what} again")
    return manifest


def verify_files(root: Path, files: dict[str, str], what: str) -> None:
    """Check every listed file's SHA-256. Raises RequestError naming the first that is missing or changed."""
    for relative, expected in files.items():
        inside = PurePosixPath(relative)
        if inside.is_absolute() or ".." in inside.parts:
            raise RequestError(f"{root}: lists {relative}, which is outside the {what}: make the {what} again")
        path = root / relative
        if not path.is_file():
            raise RequestError(f"{path}: missing from the {what}: copy it again, or make the {what} again")
        if sha256_file(path) != expected:
            raise RequestError(f"{path}: changed since the {what} was written (SHA-256 differs): make the {what} again")


def place_file(source: Path, destination: Path) -> None:
    """Give a file a second place: a hard link where the file system can, else a copy. Hashes guard both."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, destination)
