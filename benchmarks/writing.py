"""What every file in benchmarks/results has: the command, the commit, the date, the host, seeds, minutes, rows.

The commit ends in "+uncommitted" where the files that ran are not those of the commit."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def write_rows(
    path: Path, rows: Sequence[dict[str, Any]], *, minutes: float, seeds: Sequence[int] = (), before: str = ""
) -> None:
    """Write a results file. `before`: what has to be run before this program, as a shell command."""
    from profiles.checkout import checkout_commit
    from profiles.host import host_info
    from profiles.storage import write_json

    program = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    value = {
        "command": f"{before} && {program}" if before else program,
        "commit": checkout_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": host_info(),
        "seeds": list(seeds),
        "minutes": round(minutes, 1),
        "rows": list(rows),
    }
    write_json(path, value)
