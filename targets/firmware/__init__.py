"""Firmware for Cortex-M boards under QEMU: generated C (targets/c) and a harness, built, run, counted.

    firmware = build(folder_with_model_c, "m4", "O2", out)     # Firmware: the ELF, and the model's flash and RAM
    with Emulator(firmware) as board:                          # one QEMU process answers any number of rows
        reply = board.ask(request)                             # the bytes of all inputs -> the bytes of all outputs
    found = profile(firmware, requests)                        # instructions of every call, stack

boards.py      the cores, their boards, their flags
build.py       compiles, links, measures flash and RAM
emulator.py    one QEMU process; what a fault means
counter.py     exact instruction counts by the plugin icount.c
session.py     a GraphSession on the emulated core
*.c *.h *.in   what runs on the core
"""

from targets.firmware.boards import BOARDS, Board, board_of
from targets.firmware.build import Firmware, build
from targets.firmware.counter import Profile, count_instructions, profile
from targets.firmware.emulator import Emulator, FirmwareError

__all__ = [
    "BOARDS",
    "Board",
    "Emulator",
    "Firmware",
    "FirmwareError",
    "Profile",
    "board_of",
    "build",
    "count_instructions",
    "profile",
]
