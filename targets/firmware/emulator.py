"""One QEMU process that runs a firmware and answers rows through its standard streams; what a fault means."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from targets.firmware.boards import program

if TYPE_CHECKING:
    from targets.firmware.build import Firmware

QEMU = "qemu-system-arm"
ROW_TIMEOUT_S = 120.0  # some ten thousand million instructions: no network for such cores takes so many
END_TIMEOUT_S = 30.0

EXCEPTIONS = {3: "hard fault", 4: "memory management fault", 5: "bus fault", 6: "usage fault", 7: "secure fault"}
# Bits of the configurable fault status register (Armv7-M and Armv8-M Architecture Reference Manuals, CFSR).
CAUSES = {
    0: "execution of what is no code", 1: "access to protected memory", 4: "no stack for an exception",
    8: "code fetched from where no memory is", 9: "access to where no memory is", 10: "access to where no memory is",
    12: "no stack for an exception", 16: "undefined instruction", 17: "invalid state", 18: "invalid return",
    19: "no coprocessor", 20: "stack overflow", 24: "unaligned access", 25: "division by zero",
}  # fmt: skip
STACK_CAUSES = 1 << 4 | 1 << 12 | 1 << 20
GUARD_BYTES = 1 << 20  # as in startup.c


class FirmwareError(RuntimeError):
    """A firmware cannot be built, faults, or hangs: one line."""


@lru_cache
def qemu_version(emulator: str = QEMU) -> str:
    """E.g. "7.2.22". Raises MissingError if QEMU is not installed."""
    text = subprocess.check_output([program(emulator), "--version"], text=True)
    found = re.search(r"version (\S+)", text)
    return found[1] if found else text.splitlines()[0]


class Emulator:
    """A context manager around one QEMU process. `stack_bytes` is known after it was closed.

    `host`: what runs the firmware, for messages.

    Raises FirmwareError when the core faults, when its stack overflows, and when a row takes longer than `timeout_s`.
    """

    host = "QEMU"

    def __init__(
        self,
        firmware: Firmware,
        *,
        timeout_s: float = ROW_TIMEOUT_S,
        options: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> None:
        self.firmware, self.timeout_s = firmware, timeout_s
        self.stack_bytes: int | None = None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command(options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            cwd=cwd,
            bufsize=0,
        )

    def _command(self, options: Sequence[str]) -> list[str]:
        firmware = self.firmware
        return [
            str(program(QEMU)), "-M", firmware.board.machine, "-display", "none", "-serial", "none", "-monitor", "none",
            "-semihosting-config", "enable=on,target=native", "-kernel", str(firmware.elf.resolve()), *options,
        ]  # fmt: skip

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def ask(self, request: bytes) -> bytes:
        """Run the model on one row: all inputs in order -> all outputs in order, as the model's own bytes."""
        if len(request) != sum(self.firmware.input_bytes):
            raise ValueError(f"a row is {sum(self.firmware.input_bytes)} bytes, not {len(request)}")
        deadline = time.monotonic() + self.timeout_s
        assert self._process.stdin is not None and self._process.stdout is not None
        self._transfer(self._process.stdin.fileno(), request, deadline)
        parts, left = [], sum(self.firmware.output_bytes)
        while left:
            self._wait(self._process.stdout.fileno(), False, deadline)
            parts.append(os.read(self._process.stdout.fileno(), left))
            if not parts[-1]:
                raise self._died()
            left -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Let the firmware end: there are no more rows. Afterwards `stack_bytes` is known."""
        if self._messages.closed:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(END_TIMEOUT_S)
            found = re.search(r"^firmware: stack (0x\w+)", self._text(), re.MULTILINE)
            if code or found is None:
                raise self._died()
            self.stack_bytes = int(found[1], 16)
        except subprocess.TimeoutExpired:
            raise FirmwareError("the emulated core does not end when there are no more rows") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._messages):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _transfer(self, descriptor: int, data: bytes, deadline: float) -> None:
        os.set_blocking(descriptor, False)
        view = memoryview(data)
        while view:
            self._wait(descriptor, True, deadline)
            try:
                view = view[os.write(descriptor, view) :]
            except BrokenPipeError:
                raise self._died() from None

    def _wait(self, descriptor: int, writing: bool, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise FirmwareError(f"the emulated core hangs: no answer within {self.timeout_s:g} s")

    def _text(self) -> str:
        self._messages.seek(0)
        return self._messages.read().decode("utf-8", errors="replace")

    def _died(self) -> FirmwareError:
        """Why the process ended before it answered."""
        try:
            code = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return FirmwareError(f"{self.host} closed its output but goes on")
        text = self._text()
        found = re.search(r"^firmware: fault (\w+) (\w+) (\w+) (\w+) (\w+)", text, re.MULTILINE)
        if found:
            return FirmwareError(explain_fault(self.firmware, *(int(number, 16) for number in found.groups())))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return FirmwareError(f"{self.host} ended with exit code {code}: {lines[-1] if lines else 'no message'}")


def explain_fault(firmware: Firmware, exception: int, cause: int, pc: int, address: int, frame: int) -> str:
    """A fault in words. `frame`: where the core pushed its registers; `address`: what it accessed, 0 if not known."""
    limit, function = firmware.symbols["model_stack_limit"][0], _function(firmware, pc)
    if cause & STACK_CAUSES or any(limit - GUARD_BYTES <= place < limit for place in (frame, address)):
        where = f" in {function}" if pc and function else ""
        return f"stack overflow: the model needs more than the {firmware.model_stack_bytes:,} bytes of its stack{where}"
    kind = EXCEPTIONS.get(exception, f"unexpected exception {exception}")
    causes = list(dict.fromkeys(words for bit, words in CAUSES.items() if cause >> bit & 1)) or ["cause unknown"]
    at = f" {address:#010x}" if address else ""
    where = f"pc {pc:#010x} in {function or 'no function'}"
    return f"{kind}: {', '.join(causes)}{at}, {where}, CFSR {cause:#010x}"


def _function(firmware: Firmware, pc: int) -> str | None:
    for name, (start, size) in firmware.symbols.items():
        if start <= pc < start + size:
            return name
    return None
