"""Deploy: a graph becomes a file that a runtime loads. Importing this package does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from targets.student import Student


def load(path: str | Path, runtime: str | None = None) -> Student:
    """Open a bundle or an artifact as a Student: see `targets.student.load`."""
    from targets.student import load as load_student

    return load_student(path, runtime)
