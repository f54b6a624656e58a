"""Exact instruction counts per call of the model, by a plugin of QEMU that is built at first use; and the stack."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from profiles.errors import MissingError
from profiles.storage import atomic_file, cache_root, sha256_file
from targets.firmware.boards import program
from targets.firmware.build import SOURCES, Firmware
from targets.firmware.emulator import ROW_TIMEOUT_S, Emulator, FirmwareError

PLUGIN_FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden")
# What QEMU says where it was built without plugins, or for another version of their interface.
REFUSALS = ("plugin interface not enabled", "Could not load plugin")


@dataclass(frozen=True)
class Profile:
    """What calls of a model took. `instructions`: of each call in order; None if they could not be counted (`note`)."""

    outputs: list[bytes]
    instructions: list[int] | None
    stack_bytes: int
    note: str | None = None


def count_instructions(firmware: Firmware, requests: Sequence[bytes], timeout_s: float = ROW_TIMEOUT_S) -> list[int]:
    """Instructions that each request takes between entry and return of NAME_run, both included.

    Raises MissingError if QEMU has no plugins or there is no compiler to build ours, FirmwareError as `Emulator` does.
    """
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        instructions, _, _ = _count(firmware, requests, plugin(), Path(folder), timeout_s)
        return instructions


def profile(firmware: Firmware, requests: Sequence[bytes], timeout_s: float = ROW_TIMEOUT_S) -> Profile:
    """Outputs, instructions and stack of some calls; without instructions, and a note, where they cannot be counted."""
    try:
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            instructions, outputs, stack = _count(firmware, requests, plugin(), Path(folder), timeout_s)
            return Profile(outputs, instructions, stack)
    except MissingError as error:
        with Emulator(firmware, timeout_s=timeout_s) as board:
            outputs = [board.ask(request) for request in requests]
        assert board.stack_bytes is not None
        return Profile(outputs, None, board.stack_bytes, f"instructions were not counted: {error}")


def plugin() -> Path:
    """The compiled plugin in the user's cache, named by the hash of its source and flags. Raises MissingError."""
    source = SOURCES / "icount.c"
    key = hashlib.sha256(f"{sha256_file(source)} {PLUGIN_FLAGS}".encode()).hexdigest()[:16]
    path = cache_root() / "qemu-plugins" / f"icount-{key}.so"
    if path.exists():
        return path
    with atomic_file(path) as temporary:
        command = [str(program("gcc")), *PLUGIN_FLAGS, str(source), "-o", str(temporary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingError(f"gcc cannot build the plugin that counts: {(done.stderr.splitlines() or ['?'])[-1]}")
    return path


def _count(
    firmware: Firmware, requests: Sequence[bytes], path: Path, folder: Path, timeout_s: float
) -> tuple[list[int], list[bytes], int]:
    start, stop = (firmware.symbols[name][0] for name in (f"{firmware.name}_run", "model_returned"))
    option = f"file={str(path).replace(',', ',,')},start={start:#x},stop={stop:#x}"
    try:
        with Emulator(firmware, timeout_s=timeout_s, options=["-plugin", option], cwd=folder) as board:
            outputs = [board.ask(request) for request in requests]
    except FirmwareError as error:
        if any(refusal in str(error) for refusal in REFUSALS):
            raise MissingError(f"this QEMU cannot load the plugin that counts ({error})") from None
        raise
    counts = [int(line) for line in (folder / "counts").read_text(encoding="ascii").split()]
    if len(counts) != len(requests):
        raise FirmwareError(f"the plugin counted {len(counts)} calls of {len(requests)}")
    assert board.stack_bytes is not None
    return counts, outputs, board.stack_bytes
