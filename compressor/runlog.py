"""What a run says while it runs: metrics.jsonl, TensorBoard, and a bar on a terminal or plain lines in a pipe."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from profiles.errors import require
from profiles.storage import atomic_file

METRICS = "metrics.jsonl"
PLAIN_SECONDS = 10.0  # between two progress lines in a pipe


class RunLog:
    """The log of one run. Only the first process of a run writes; for the others every method does nothing."""

    def __init__(self, run_dir: Path, active: bool = True) -> None:
        self.path = run_dir / METRICS
        self.tensorboard = run_dir / "tensorboard"
        self.active = active
        self.console = Console(stderr=True, highlight=False)
        self._sections: list[_Section] = []

    @contextlib.contextmanager
    def section(self, stage: str, step: int, total: int) -> Iterator[None]:
        """Report a stage that has done `step` of `total` steps (0: no steps to count).

        What was logged for it beyond `step` is cut off. Sections may be nested; the innermost is the current stage.
        """
        if not self.active:
            yield
            return
        cut_metrics(self.path, stage, step)
        self._sections.append(_Section(stage, step, total, self.tensorboard / stage, self.console))
        try:
            yield
        finally:
            self._sections.pop().close()

    def say(self, message: str) -> None:
        """One plain line on standard error."""
        if not self.active:
            return
        bar = self._sections[-1].bar if self._sections else None
        if bar:
            bar.console.print(message, markup=False, soft_wrap=True)
        else:
            print(message, file=sys.stderr, flush=True)

    def progress(self, step: int, loss: float | None) -> None:
        """`step` steps are done. Moves the bar, or prints a line every ten seconds and at the end."""
        line = self._sections[-1].progress(step, loss) if self._sections else None
        if line:
            self.say(line)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One line of metrics.jsonl and a point per metric in TensorBoard. What is not finite is null in the line."""
        if not self.active:
            return
        section = self._sections[-1]
        numbers = {name: float(value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": section.stage, "step": step} | finite, allow_nan=False) + "\n")
        for name, value in numbers.items():
            section.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        for section in self._sections:
            section.writer.flush()


class _Section:
    """One stage in the log: its TensorBoard writer and its bar."""

    def __init__(self, stage: str, step: int, total: int, tensorboard: Path, console: Console) -> None:
        self.stage, self.total, self.begun_at_step = stage, total, step
        # A directory per stage: their steps overlap, and a purge hides every later step of its directory.
        writer = require("torch.utils.tensorboard", "train").SummaryWriter
        self.writer = writer(str(tensorboard), purge_step=step + 1 if step else None)
        self.begun = self.said = time.monotonic()
        self.loss: float | None = None
        self.bar: Progress | None = None
        if total and console.is_terminal:
            left = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            right = (TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*left, *right, console=console)
            self.bar.start()
            self.task = self.bar.add_task(stage, total=total, completed=step, note="")
        elif total:
            start = f"going on from step {step} of {total}" if step else f"{total} steps"
            print(f"{stage}: {start}", file=sys.stderr, flush=True)

    def progress(self, step: int, loss: float | None) -> str | None:
        """Move the bar; without one, the line to print if it is time for one."""
        self.loss = loss if loss is not None else self.loss
        note = f"loss {self.loss:.4g}" if self.loss is not None else ""
        if self.bar:
            self.bar.update(self.task, completed=step, note=note)
            return None
        now = time.monotonic()
        if now - self.said < PLAIN_SECONDS and step < self.total:
            return None
        self.said = now
        rate = (step - self.begun_at_step) / max(now - self.begun, 1e-9)
        eta = f", ETA {_clock((self.total - step) / rate)}" if rate and step < self.total else ""
        return f"{self.stage}: {step}/{self.total} {note} ({rate:.1f} steps/s{eta})"

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
        self.writer.close()


def cut_metrics(path: Path, stage: str, step: int) -> None:
    """Drop a stage's lines beyond `step` (they will be written again), and a last line that a kill left unfinished."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _belongs(line, stage, step)]
    if kept != lines:
        with atomic_file(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl: stage, step, and metrics by name."""
    path = run_dir / METRICS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if _belongs(line, "", 0)]


def _belongs(line: str, stage: str, step: int) -> bool:
    try:
        entry = json.loads(line)
        return entry["stage"] != stage or (step > 0 and entry["step"] <= step)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
