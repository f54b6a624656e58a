"""The cores and the QEMU boards that have them: where memory is (QEMU's hw/arm/mps2.c, mps2-tz.c, mps3r), and the
compiler's flags."""

from __future__ import annotations

import difflib
import shutil
from dataclasses import dataclass
from pathlib import Path

from profiles.errors import MissingError, RequestError

MIB = 1024 * 1024
VECTORS_BYTES = 0x100  # before the code where both are in one memory
CODE_BYTES = 4 * MIB - VECTORS_BYTES


@dataclass(frozen=True)
class Board:
    """A core on a board. `vectors` (where the core looks for them at reset), `flash` and `ram` are addresses.

    `flash` is memory that code may stand in; these boards are loaded by a debugger and have RAM there.
    """

    core: str
    cpu: str
    machine: str
    flags: tuple[str, ...]
    vectors: int
    flash: int
    flash_bytes: int
    ram: int
    ram_bytes: int


def _board(core: str, machine: str, flags: str, vectors: int, flash: int, flash_bytes: int, ram: int) -> Board:
    cpu = f"cortex-{core}"
    all_flags = (f"-mcpu={cpu}", "-mthumb", *flags.split())
    return Board(core, cpu, machine, all_flags, vectors, flash, flash_bytes, ram, 4 * MIB)


BOARDS = {
    board.core: board
    for board in (
        _board("m3", "mps2-an385", "-mfloat-abi=soft", 0x0, VECTORS_BYTES, CODE_BYTES, 0x2000_0000),
        _board("m4", "mps2-an386", "-mfloat-abi=hard -mfpu=fpv4-sp-d16", 0x0, VECTORS_BYTES, CODE_BYTES, 0x2000_0000),
        _board("m7", "mps2-an500", "-mfloat-abi=hard -mfpu=fpv5-sp-d16", 0x0, VECTORS_BYTES, CODE_BYTES, 0x2000_0000),
        _board(
            "m33",
            "mps2-an505",
            "-mfloat-abi=hard -mfpu=fpv5-sp-d16",
            0x1000_0000,
            0x1000_0000 + VECTORS_BYTES,
            CODE_BYTES,
            0x3800_0000,
        ),
        # its tightly coupled memories have 512 KB each: code in DDR, data in SRAM 0 and 1
        _board("m55", "mps3-an547", "-mfloat-abi=hard", 0x0, 0x6000_0000, 16 * MIB, 0x2100_0000),
    )
}

PACKAGES = {
    "qemu-system-arm": "qemu-system-arm",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "gcc": "gcc",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf",
    "qemu-aarch64": "qemu-user",
    "qemu-arm": "qemu-user",
    "ssh": "openssh-client",
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
