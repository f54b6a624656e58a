"""What takes long to make and several test files need: made once per run, also where they run in several processes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class Shared:
    """Folders by name. Whoever asks first makes it; other processes wait for it (flock)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name. `make(folder)` creates and fills it if no process has; if it raises, the next one
        that asks tries again."""
        made, unfinished = self._root / name, self._root / f"{name}.unfinished"
        with open(self._root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(made)
        return made
