"""SIGTERM and SIGINT during training: stop at the next safe place, with the state saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from profiles.errors import CompressorError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(CompressorError):
    """Stopped by a signal; the state is saved. Exit code 143 (SIGTERM) or 130 (SIGINT)."""

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} {where}; state saved: run again with --resume")
        self.exit_code = 128 + signum


class Interrupts:
    """While this context is open, a signal raises `Stopped`, or inside `deferred()` is only noted in `received`.

    A second signal ends the process at once, as it would without this. Does nothing outside the main thread.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.where = "before the first stage"
        self._deferring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        return self

    def __exit__(self, *exc: Any) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Work that asks `received` itself, at places where the state can be saved."""
        before, self._deferring = self._deferring, True
        try:
            yield
        finally:
            self._deferring = before
        if self.received and not before:
            raise Stopped(self.received, self.where)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.received = signum
        if not self._deferring:
            raise Stopped(signum, self.where)
