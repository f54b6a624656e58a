"""Generated C and the harness become an ELF for one board; the model's flash and RAM: what it takes linked alone."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from profiles.errors import RequestError
from profiles.storage import read_json
from targets.firmware.boards import Board, board_of, program
from targets.firmware.emulator import FirmwareError

SOURCES = Path(__file__).parent
COMPILER = "arm-none-eabi-gcc"
MODEL_STACK_BYTES = 32 * 1024
MAIN_STACK_BYTES = 2 * 1024
# newlib's memcpy, memset and sqrtf (of cores without one), and what the compiler itself calls (64-bit division)
LIBRARIES = ("-nostartfiles", "-nodefaultlibs", "-lm", "-lc", "-lgcc")
SPLIT = ("-ffunction-sections", "-fdata-sections")
SHARED = ("-fmerge-all-constants",)  # equal constants are there once: networks of one set of weights in one program

Optimization = Literal["O2", "O3", "Os"]


@dataclass(frozen=True)
class Firmware:
    """A program for one board.

    `flash_bytes` and `ram_bytes` are the model's alone: what the linker keeps of a program that consists of NAME_run,
    NAME_input and NAME_output, the C library's functions that they call included; flash is code, constants and initial
    values, RAM is .data and .bss (so the arena), without stack. `image_bytes` is the whole image with the harness.
    The stack is measured by running: `targets.firmware.profile`.
    """

    elf: Path
    board: Board
    name: str
    input_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]
    flash_bytes: int
    ram_bytes: int
    arena_bytes: int | None
    image_bytes: int
    model_stack_bytes: int
    symbols: Mapping[str, tuple[int, int]]  # name -> (address, size)

    @property
    def core(self) -> str:
        return self.board.core


def build(
    folder: Path,
    core: str | Board,
    optimization: Optimization,
    out: Path,
    *,
    defines: Sequence[str] = (),
    model_stack_bytes: int = MODEL_STACK_BYTES,
    flash_bytes: int | None = None,
    ram_bytes: int | None = None,
) -> Firmware:
    """Build `folder` (model.c, model.json as the target c writes them) into `out`/firmware.elf; `out` is made.

    Args:
        core: of targets.firmware.boards.BOARDS, or a board with addresses of its own. defines: e.g. ("MODEL_PLAIN_C",).
        flash_bytes, ram_bytes: what the device has; the model alone must fit. The whole image must fit the board.
    Raises RequestError (unknown core, no model), MissingError (no compiler), FirmwareError (does not compile or fit).
    """
    board = core if isinstance(core, Board) else board_of(core)
    if optimization not in ("O2", "O3", "Os"):
        raise RequestError(f"option optimization: {optimization!r} is not one of O2, O3, Os")
    manifest = read_json(folder / "model.json")
    out.mkdir(parents=True, exist_ok=True)
    flags = [*board.flags, f"-{optimization}", "-std=c99", *SPLIT, *SHARED]
    model = out / "model.o"
    _compile([*flags, *(f"-D{define}" for define in defines), "-c", str(folder / "model.c"), "-o", str(model)])
    harness = _compile_harness(board, manifest, out)
    limits = _Limits(board, model_stack_bytes, MAIN_STACK_BYTES, board.flash_bytes, board.ram_bytes)
    elf = _link(limits, [model, *harness], ["Reset_Handler"], out / "firmware.elf", f"the board {board.machine}")
    device = _Limits(board, 0, 0, flash_bytes or board.flash_bytes, ram_bytes or board.ram_bytes)
    roots = [f"{manifest['name']}_{suffix}" for suffix in ("run", "input", "output")]
    alone = _sections(_link(device, [model], roots, out / "model.elf", "the device"))
    return Firmware(
        elf=elf,
        board=board,
        name=manifest["name"],
        input_bytes=tuple(entry["bytes"] for entry in manifest["inputs"]),
        output_bytes=tuple(entry["bytes"] for entry in manifest["outputs"]),
        flash_bytes=_sum(alone, ".text", ".rodata", ".ARM.exidx", ".data"),
        ram_bytes=_sum(alone, ".data", ".bss"),
        arena_bytes=manifest.get("arena_bytes"),
        image_bytes=_sum(_sections(elf), ".vectors", ".text", ".rodata", ".ARM.exidx", ".data"),
        model_stack_bytes=model_stack_bytes,
        symbols=_symbols(elf),
    )


@dataclass(frozen=True)
class _Limits:
    """What the linker may use."""

    board: Board
    model_stack_bytes: int
    main_stack_bytes: int
    flash_bytes: int
    ram_bytes: int

    def script(self) -> str:
        values = {
            "VECTORS": self.board.vectors, "FLASH": self.board.flash, "FLASH_BYTES": self.flash_bytes,
            "RAM": self.board.ram, "RAM_BYTES": self.ram_bytes, "MODEL_STACK_BYTES": self.model_stack_bytes,
            "MAIN_STACK_BYTES": self.main_stack_bytes,
        }  # fmt: skip
        text = (SOURCES / "link.ld.in").read_text(encoding="utf-8")
        return re.sub(r"@(\w+)@", lambda match: f"{values[match[1]]:#x}", text)


def _compile_harness(board: Board, manifest: Mapping[str, Any], out: Path) -> list[Path]:
    name = manifest["name"]
    sizes = {key: ",".join(str(entry["bytes"]) for entry in manifest[f"{key}s"]) for key in ("input", "output")}
    defines = [
        *(f"-DMODEL_{what.upper()}={name}_{what}" for what in ("run", "input", "output")),
        *(f"-D{key.upper()}_BYTES={value}" for key, value in sizes.items()),
    ]
    objects = []
    for source in ("startup.c", "main.c"):
        objects.append(out / source.replace(".c", ".o"))
        # no loop of the startup code may become a call of memcpy: .data is not there yet
        flags = [*board.flags, "-Os", "-std=gnu99", "-fno-tree-loop-distribute-patterns", *SPLIT]
        _compile([*flags, *defines, "-c", str(SOURCES / source), "-o", str(objects[-1])])
    return objects


def _compile(arguments: list[str]) -> None:
    done = _run([str(program(COMPILER)), *arguments])
    if done.returncode:
        lines = done.stderr.splitlines()
        raise FirmwareError(f"does not compile: {next((line for line in lines if ' error: ' in line), lines[-1])}")


def _link(limits: _Limits, objects: Sequence[Path], roots: Sequence[str], elf: Path, where: str) -> Path:
    """Link what `roots` need. Raises FirmwareError saying which memory is too small, and by how much."""
    script = elf.with_suffix(".ld")
    script.write_text(limits.script(), encoding="utf-8")
    keep = [f"-Wl,-u,{root}" for root in roots]
    done = _run(
        [
            str(program(COMPILER)), *limits.board.flags, *map(str, objects), f"-T{script}", "-Wl,--gc-sections",
            "-Wl,--no-warn-rwx-segments", f"-Wl,-e,{roots[0]}", *keep, *LIBRARIES, "-o", str(elf),
        ]
    )  # fmt: skip
    if done.returncode == 0:
        return elf
    sizes = {"FLASH": limits.flash_bytes, "RAM": limits.ram_bytes}
    overflows = re.findall(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr)
    if overflows:
        words = [f"{int(more):,} bytes more than the {sizes[name]:,} of {name}" for name, more in overflows]
        raise FirmwareError(f"does not fit {where}: needs {' and '.join(words)}")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise FirmwareError(f"does not link: {next((line for line in lines if ' undefined ' in line), lines[-1])}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:  # gcc's own temporary files
        environment = {"LC_ALL": "C", "PATH": str(Path(command[0]).parent) + ":/usr/bin:/bin", "TMPDIR": folder}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _tool(name: str, *arguments: str) -> list[list[str]]:
    """The lines of one of the compiler's tools ("size", "nm"), split."""
    path = program(COMPILER).with_name(f"arm-none-eabi-{name}")
    return [line.split() for line in subprocess.check_output([path, *arguments], text=True).splitlines()]


def _sections(elf: Path) -> dict[str, int]:
    """Section name -> bytes."""
    lines = _tool("size", "-A", str(elf))
    return {line[0]: int(line[1]) for line in lines if len(line) == 3 and line[1].isdigit()}


def _sum(sections: Mapping[str, int], *names: str) -> int:
    return sum(sections.get(name, 0) for name in names)


def _symbols(elf: Path) -> dict[str, tuple[int, int]]:
    """Symbol -> (address without the Thumb bit, bytes)."""
    found = {}
    for line in _tool("nm", "--print-size", str(elf)):
        size = int(line[1], 16) if len(line) == 4 else 0
        is_code = line[-2] in "tTwW"
        found[line[-1]] = (int(line[0], 16) & (~1 if is_code else ~0), size)
    return found
