"""Requests and answers over the standard streams of a process, each within its time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

CHUNK_BYTES = 1 << 20
END_S = 10.0


class DeviceError(RuntimeError):
    """A device, or the way to it, failed: one line that says what."""


class Channel:
    """A running program that answers. A context manager: leaving it closes its input and ends it.

    `doing` is for messages ("running the agent on ssh host pi"); `timeout_s` the longest that one transfer may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        doing: str,
        timeout_s: float,
        cwd: Path | None = None,
        new_session: bool = False,
    ) -> None:
        self.doing, self.timeout_s = doing, timeout_s
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            cwd=cwd,
            bufsize=0,
            start_new_session=new_session,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def send(self, data: bytes | memoryview) -> None:
        """Write all of it. Raises DeviceError if the program ended, or does not read within the time limit."""
        deadline = time.monotonic() + self.timeout_s
        view = memoryview(data)
        while view:
            self._wait(self._stdin.fileno(), select.POLLOUT, deadline)
            try:
                view = view[os.write(self._stdin.fileno(), view[:CHUNK_BYTES]) :]
            except BrokenPipeError:
                raise self.failure() from None

    def receive(self, count: int, timeout_s: float | None = None) -> bytes:
        """Read exactly `count` bytes. Raises DeviceError if the program ends before, or takes too long."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        parts: list[bytes] = []
        while count:
            parts.append(self._read(min(count, CHUNK_BYTES), deadline))
            count -= len(parts[-1])
        return b"".join(parts)

    def receive_line(self, limit: int = 1 << 20, timeout_s: float | None = None) -> bytes:
        """Read up to and without the next newline. More than `limit` bytes without one are no answer."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._read(1, deadline)  # short lines: what follows them must stay in the pipe
            if len(line) > limit:
                raise DeviceError(f"answered garbage ({bytes(line[:20])!r}...) while {self.doing}")
        return bytes(line[:-1])

    def finish(self, timeout_s: float | None = None) -> str:
        """Close the program's input, wait for its end, and give what it wrote to standard error.

        Raises DeviceError if it does not end, or ends with another exit code than 0.
        """
        self._stdin.close()
        try:
            code = self._process.wait(timeout_s or self.timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DeviceError(f"does not end when there is nothing more to do, while {self.doing}") from None
        if code:
            raise self.failure()
        return self.messages()

    def kill(self) -> None:
        """End the process on this side at once; what it stands for on the device ends with the place."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def messages(self) -> str:
        """What the program wrote to standard error so far."""
        self._messages.seek(0)
        return self._messages.read().decode("utf-8", errors="replace")

    def failure(self) -> DeviceError:
        """Why the program stopped answering."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return DeviceError(f"closed its output and goes on, while {self.doing}")
        return DeviceError(f"{ending(code, self.messages())}, while {self.doing}")

    def _read(self, count: int, deadline: float) -> bytes:
        self._wait(self._stdout.fileno(), select.POLLIN, deadline)
        data = os.read(self._stdout.fileno(), count)
        if not data:
            raise self.failure()
        return data

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise DeviceError(f"no answer within {self.timeout_s:g} s while {self.doing}")


def ending(code: int, messages: str) -> str:
    """How a program ended, with the last line that it wrote."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    last = f": {lines[-1][:300]}" if lines else ""
    number = -code if code < 0 else code - 128  # a shell reports a signal as 128 + its number
    if number in signal.valid_signals():
        return f"ended by signal {number} ({signal.Signals(number).name}){last}"
    return f"ended with exit code {code}{last}"
