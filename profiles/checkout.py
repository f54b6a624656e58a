"""Which version of this code ran: the commit of the checkout, and whether that is the whole truth."""

from __future__ import annotations

import subprocess
from pathlib import Path

UNCOMMITTED = "+uncommitted"
# Programs of benchmarks/ write their results there one after the other: those change no number.
RESULTS = ":(exclude)benchmarks/results"


def checkout_commit(root: Path = Path(__file__).parents[1]) -> str | None:
    """The full hash of the commit of the checkout at `root`, with "+uncommitted" if its files, new ones included, are
    not those of the commit. None for an installed package, or without git."""
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", RESULTS)
    if commit is None or changes is None:
        return None
    return commit + (UNCOMMITTED if changes else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()
