"""Layout: a published data set's own form on disk, read from the copy that a user has.

A module in this folder with a `Layout` named `layout` is one; nothing else needs to know of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """`recognises(root)` looks at names only. `fetch(root, photo_px)` reads the copy into the cache and returns the
    data set's directory; `photo_px` null: the size at which the set is published."""

    name: str
    recognises: Callable[[Path], bool]
    fetch: Callable[[Path, int | None], Path]


def find_layout(root: Path) -> Layout | None:
    """The layout that a folder is in, or None: then it is a folder of pairs (see folder.py)."""
    from compressor import data

    for info in pkgutil.iter_modules(data.__path__):
        layout = getattr(importlib.import_module(f"{data.__name__}.{info.name}"), "layout", None)
        if isinstance(layout, Layout) and layout.recognises(root):
            return layout
    return None
