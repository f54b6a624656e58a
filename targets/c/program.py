"""Generated C as a static program: for a device that has no Python (Android, Wear OS), and for QEMU's user mode.

    built = build(folder_with_model_c, "aarch64", "O3", out / "program")

It needs nothing of the device but the kernel. What it reads and writes: templates/program.c.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.errors import RequestError
from profiles.host import normal_machine
from profiles.storage import read_json
from targets.firmware.boards import program

SOURCE = Path(__file__).with_name("templates") / "program.c"
FLAGS = ("-std=gnu99", "-Wall", "-Wextra", "-static", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")


@dataclass(frozen=True)
class Machine:
    """An instruction set: the prefix of its compiler's tools, and its flags.

    The flags are the oldest processor that the devices of this kind have, so that one program runs on all of them.
    """

    prefix: str
    flags: tuple[str, ...]


MACHINES = {
    "aarch64": Machine("aarch64-linux-gnu-", ("-mcpu=cortex-a53", "-no-pie")),
    "armv7l": Machine(
        "arm-linux-gnueabihf-",
        ("-march=armv7-a+neon-vfpv4", "-mfloat-abi=hard", "-mthumb", "-no-pie"),
    ),
}


@dataclass(frozen=True)
class Program:
    """A built program. `flash_bytes` and `ram_bytes` are the model's alone, as for firmware: code, constants and
    initial values; .data and .bss (so the arena). `manifest` is model.json."""

    path: Path
    machine: str
    manifest: Mapping[str, Any]
    flash_bytes: int
    ram_bytes: int
    symbols: Mapping[str, int]  # name -> address

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def arena_bytes(self) -> int | None:
        return self.manifest.get("arena_bytes")

    def row_bytes(self, direction: str) -> int:
        """Of all "inputs" or "outputs" of one row."""
        return sum(port["bytes"] for port in self.manifest[direction])


def build(folder: Path, machine: str, optimization: str, path: Path) -> Program:
    """Build `folder` (model.c, model.json as the target c writes them) into the static program `path`.

    Raises RequestError for an instruction set that is not known, MissingError without its compiler, RuntimeError if
    it does not compile.
    """
    kind = _machine(machine)
    manifest = read_json(folder / "model.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    model = path.with_suffix(".o")
    flags = [*kind.flags, f"-{optimization}", *FLAGS]
    _compile(kind, [*flags, "-c", str(folder / "model.c"), "-o", str(model)])
    name = manifest["name"]
    sizes = {key: ",".join(str(port["bytes"]) for port in manifest[f"{key}s"]) for key in ("input", "output")}
    defines = [
        *(f"-DMODEL_{what.upper()}={name}_{what}" for what in ("run", "input", "output")),
        *(f"-D{key.upper()}_BYTES={value}" for key, value in sizes.items()),
    ]
    _compile(kind, [*flags, *defines, str(SOURCE), str(model), "-o", str(path)])
    code, data, bss = _size(kind, model)
    return Program(path, machine, manifest, code + data, data + bss, _symbols(kind, path))


def compiler(machine: str) -> str:
    """The path of the compiler for an instruction set. Raises MissingError naming the Debian package that has it."""
    return str(program(f"{_machine(machine).prefix}gcc"))


def _machine(machine: str) -> Machine:
    if machine in MACHINES:
        return MACHINES[machine]
    if machine == normal_machine(platform.machine()):
        return Machine("", ())
    raise RequestError(f"no static program for the machine {machine!r}: there are {', '.join(MACHINES)}")


def _compile(kind: Machine, arguments: list[str]) -> None:
    done = subprocess.run([str(program(f"{kind.prefix}gcc")), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise RuntimeError(f"does not compile: {next((line for line in lines if ' error: ' in line), lines[-1])}")


def _size(kind: Machine, model: Path) -> tuple[int, int, int]:
    """(code and constants, initial values, zeros) of an object file in bytes."""
    text = subprocess.check_output([f"{kind.prefix}size", str(model)], text=True)
    code, data, bss = text.splitlines()[1].split()[:3]
    return int(code), int(data), int(bss)


def _symbols(kind: Machine, path: Path) -> dict[str, int]:
    """Symbol -> address, without the bit that says Thumb."""
    found = {}
    for line in subprocess.check_output([f"{kind.prefix}nm", str(path)], text=True).splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1] in "tTwW":
            address = int(parts[0], 16)
            found[parts[2]] = address & ~1 if "thumb" in " ".join(kind.flags) else address
    return found
