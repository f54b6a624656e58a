"""A Python of another instruction set, as a folder: Debian's, unpacked and never run here, and wheels from PyPI.

Nothing is emulated while it is made. What it is for: targets/runners/qemu_user.py.
"""

from __future__ import annotations

import compileall
import gzip
import py_compile
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.data.source import Progress
from profiles.errors import MissingError
from targets.container.engine import last_line
from targets.remote.roots import PACKAGES, PYTHON

SUITE = "bookworm"  # Debian 12
PYTHON_VERSION = (3, 11)  # Debian 12's, for which the wheels are
# Its versions stay as they are until the next point release; updates in between change from day to day.
RELEASE_ALONE = """sed -i '/-updates/d; /-security/d' "$1/etc/apt/sources.list\""""
TIMEOUT_S = 600
SPARE = ("dist-packages", "idlelib", "lib2to3", "tkinter", "test", "unittest", "__pycache__", "gconv", "locale")


def build_root(directory: Path, wheels: Mapping[str, Path], debian: str, include: tuple[str, ...], kept: str) -> Any:
    """Fill `directory`: usr/, lib -> usr/lib, opt/packages.

    Args:
        debian: the architecture's name there ("arm64"). include: Debian packages. kept: of their Python packages, the
            one that is copied beside the wheels' ("" for none).
    Raises MissingError without mmdebstrap, or if Debian's servers cannot be reached.
    """
    tool = shutil.which("mmdebstrap")
    if tool is None:
        raise MissingError("mmdebstrap is not installed: apt install mmdebstrap (or make setup-system)")
    system = directory / "system"
    command = [
        tool, "--variant=extract", f"--architectures={debian}", f"--include={','.join(include)}", "--quiet",
        f"--setup-hook={RELEASE_ALONE}", SUITE, str(system),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise MissingError(f"mmdebstrap did not get Debian {SUITE} {debian} within {TIMEOUT_S} s") from None
    if done.returncode:
        raise MissingError(f"mmdebstrap could not get Debian {SUITE} for {debian}: {last_line(done.stderr)}")
    versions = debian_versions(system)
    packages = directory / PACKAGES
    packages.mkdir(parents=True)
    if kept:
        shutil.copytree(system / "usr/lib/python3/dist-packages" / kept, packages / kept)
    keep(system, directory)
    shutil.rmtree(system)
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    compile_modules(directory)
    return {"debian": versions}


def compile_modules(directory: Path) -> None:
    """Compile all modules here, where it is quick; if this Python is another version, the emulated one does it each
    time. The files say nothing of times, so they are the same whenever they are made."""
    if sys.version_info[:2] != PYTHON_VERSION:
        return
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for folder in ("usr/lib/python3.11", PACKAGES):
        compileall.compile_dir(
            directory / folder, quiet=2, invalidation_mode=mode, stripdir=str(directory), prependdir="/"
        )


def keep(system: Path, directory: Path) -> None:
    """Copy PYTHON and what it needs of usr/lib, without SPARE, links to files as files: absolute ones would lead out of
    the folder."""

    def spare(folder: str, names: list[str]) -> list[str]:
        dangling = [name for name in names if not (Path(folder) / name).exists()]
        return [*dangling, *(name for name in names if name in SPARE)]

    (directory / PYTHON).parent.mkdir(parents=True)
    shutil.copy2(system / PYTHON, directory / PYTHON)
    for folder in sorted((system / "usr/lib").iterdir()):
        if folder.name.startswith("python3.11") or folder.name.endswith(("-linux-gnu", "-linux-gnueabihf")):
            shutil.copytree(folder, directory / "usr/lib" / folder.name, ignore=spare)
    for library in [*(directory / "usr/lib").glob("*/blas/*.so.*"), *(directory / "usr/lib").glob("*/lapack/*.so.*")]:
        if not (place := library.parents[1] / library.name).exists():  # Debian would link it when it installs
            shutil.copy2(library, place)
    (directory / "usr/lib").mkdir(exist_ok=True)
    for loader in [*(system / "usr/lib").glob("ld-linux*"), *(system / "lib").glob("ld-linux*")]:
        if loader.exists():
            shutil.copy2(loader, directory / "usr/lib" / loader.name)
    if not (system / "lib").is_symlink():  # where /lib and /usr/lib are two
        shutil.copytree(system / "lib", directory / "usr/lib", ignore=spare, dirs_exist_ok=True)
    (directory / "lib").symlink_to("usr/lib")


def debian_versions(system: Path) -> dict[str, str]:
    """Source package -> version, by the first line of each changelog: nothing was installed that would keep a list."""
    found = {}
    for path in sorted((system / "usr/share/doc").glob("*/changelog.Debian.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            line = re.match(r"(\S+) \((\S+)\)", file.readline())
        if line:
            found[line[1]] = line[2]
    return found


def build_with(debian: str, include: tuple[str, ...], kept: str = "") -> Any:
    """The `build` of a Source."""

    def build(directory: Path, wheels: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
        return build_root(directory, wheels, debian, include, kept)

    return build
