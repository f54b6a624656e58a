"""The small runner that is pushed to a device: those of our modules that the agent imports, nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import profiles
import targets

CODE = "code"  # where it lies in a place


def write_code(folder: Path) -> Path:
    """Copy the sources of `targets` and `profiles` (Python only: a device compiles nothing) into `folder`."""
    for package in (targets, profiles):
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for source in root.rglob("*.py"):
            place = folder / root.name / source.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
    return folder
