"""The cores and the QEMU boards that have them: where memory is (QEMU's hw/arm/mps2.c, mps2-tz.c, mps3r), and the
compiler's flags."""

from __future__ import annotations

import difflib
import shutil
from dataclasses import dataclass
from pathlib import Path

from profiles.errors import MissingError, RequestError

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Board:
    """A core on a board. `flash` and `ram` are addresses."""

    core: str
    cpu: str
    machine: str
    flags: tuple[str, ...]
    flash: int
    flash_bytes: int
    ram: int
    ram_bytes: int


def _board(core: str, machine: str, flags: str, flash: int, ram: int, size: int) -> Board:
    cpu = f"cortex-{core}"
    return Board(core, cpu, machine, (f"-mcpu={cpu}", "-mthumb", *flags.split()), flash, size, ram, size)


BOARDS = {
    board.core: board
    for board in (
        _board("m3", "mps2-an385", "-mfloat-abi=soft", 0x0, 0x2000_0000, 4 * MIB),
        _board("m4", "mps2-an386", "-mfloat-abi=hard -mfpu=fpv4-sp-d16", 0x0, 0x2000_0000, 4 * MIB),
        _board("m7", "mps2-an500", "-mfloat-abi=hard -mfpu=fpv5-sp-d16", 0x0, 0x2000_0000, 4 * MIB),
        _board("m33", "mps2-an505", "-mfloat-abi=hard -mfpu=fpv5-sp-d16", 0x1000_0000, 0x3800_0000, 4 * MIB),
        _board("m55", "mps3-an547", "-mfloat-abi=hard", 0x0, 0x2000_0000, 512 * KIB),
    )
}

PACKAGES = {
    "qemu-system-arm": "qemu-system-arm",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "gcc": "gcc",
}


def board_of(core: str) -> Board:
    """The board that has this core. Raises RequestError for a core that no board has."""
    if core not in BOARDS:
        near = difflib.get_close_matches(core, BOARDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BOARDS)}"
        raise RequestError(f"no emulated board has the core {core!r}: {hint}")
    return BOARDS[core]


def program(name: str) -> Path:
    """A program of PACKAGES by its path. Raises MissingError naming the Debian package that has it."""
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is not installed: apt install {PACKAGES[name]} (or make setup-system)")
    return Path(found)
