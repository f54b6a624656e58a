"""Parts of a benchmark that takes hours: what each measured, kept beside the results and committed with them.

    benchmarks/results/parts/NAME/LABEL.json

A part is what one trained network did on the test items, item by item: enough for every row and interval, small enough
for git. A program that is stopped, or started on another machine, trains only what has no part yet. A part is of the
settings that it names; with others it is measured again. Its commit is that of the sources which trained it. Delete a
part to have it again.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import spent_here
from benchmarks.writing import RESULTS


class Parts:
    """The parts of one benchmark. `settings`: what they are of, a recipe's hash; parts of others are measured again."""

    def __init__(self, name: str, settings: str) -> None:
        self.directory, self.settings = RESULTS / "parts" / name, settings
        self.minutes: dict[str, float] = {}  # of every part that was asked for

    def get(
        self, label: str, measure: Callable[..., Mapping[str, Any]], *arguments: Any, of: Sequence[str] = ()
    ) -> dict[str, Any]:
        """What `measure(*arguments)` gave: kept, or measured now. `of`: settings of this part alone, beside all
        parts'."""
        from profiles.checkout import checkout_commit
        from profiles.host import host_info
        from profiles.storage import write_json

        kept = self.kept(label, of)
        if kept is None:
            before, commit = spent_here(), checkout_commit()
            found = measure(*arguments)
            about = {"settings": self._settings_of(of), "commit": commit, "host": host_info()["cpu"]}
            date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            minutes = round((spent_here() - before) / 60, 2)
            part: dict[str, Any] = {"label": label, **about, "date": date, "minutes": minutes, "found": dict(found)}
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self._path(label), part)
            self.minutes[label] = minutes
            kept = part["found"]
        return kept

    def kept(self, label: str, of: Sequence[str] = ()) -> dict[str, Any] | None:
        """What is kept of a part with these settings; None if nothing is."""
        from profiles.storage import read_json

        path = self._path(label)
        part = read_json(path) if path.exists() else None
        if part is None or part["settings"] != self._settings_of(of):
            return None
        self.minutes[label] = part["minutes"]
        return part["found"]

    def _path(self, label: str) -> Path:
        return self.directory / f"{re.sub(r'[^a-z0-9-]+', '-', label.lower())}.json"

    def _settings_of(self, of: Sequence[str]) -> str:
        from compressor.recipe import canonical_hash

        return canonical_hash([self.settings, *of]) if of else self.settings


def packed(right: np.ndarray) -> str:
    """(n,) of 0 and 1 as a string of as many digits. Raises ValueError for other values."""
    if not np.isin(right, (0, 1)).all():
        raise ValueError("only 0 and 1 are kept as digits")
    return "".join(str(int(value)) for value in right)


def unpacked(digits: str) -> np.ndarray:
    """(n,) float64, from `packed`."""
    return np.array([int(digit) for digit in digits], np.float64)
