"""The machine that this runs on: processor, cores, memory, system."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# "armv8l" is what Linux tells a 32-bit program on a 64-bit Arm processor.
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}

# Arm processors do not print a name, only the MIDR part number (Arm's technical reference manuals, "MIDR_EL1").
_ARM_PARTS = {
    "0xc07": "Cortex-A7",
    "0xc08": "Cortex-A8",
    "0xc09": "Cortex-A9",
    "0xc0f": "Cortex-A15",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd49": "Neoverse-N2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
}


def normal_machine(name: str) -> str:
    """One spelling per instruction set: "x86_64" for AMD64, "aarch64" for arm64, otherwise lower case."""
    return _MACHINES.get(name.lower(), name.lower())


def machine() -> str:
    """This machine's instruction set, e.g. "x86_64" or "aarch64"."""
    return normal_machine(platform.machine())


def cpu_model_from(cpuinfo: str) -> str | None:
    """The processor's name in the text of a /proc/cpuinfo; several kinds of core are joined with " + "."""
    names: dict[str, None] = {}
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key.lower() in ("model name", "cpu model") and value:
            names[value] = None
        elif key == "CPU part":
            names[_ARM_PARTS.get(value.lower(), f"Arm part {value}")] = None
    return " + ".join(names) or None


def cpu_model() -> str:
    """The processor's name, e.g. "AMD EPYC" or "Cortex-A76"."""
    try:
        name = cpu_model_from(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:  # no /proc: macOS, Windows
        name = None
    return name or platform.processor() or platform.machine() or "unknown"


def usable_cores() -> list[int]:
    """The cores that this process may run on (a container may have fewer than the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def host_info() -> dict[str, Any]:
    """What results.json says about the machine that ran: processor, machine, cores, memory in bytes, system, Python."""
    import psutil

    return {
        "cpu": cpu_model(),
        "machine": machine(),
        "cores": len(usable_cores()),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
