"""What a container was to be limited to, and what a process in it finds: limits that are not enforced are named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.host import cpu_model, machine, usable_cores

if TYPE_CHECKING:
    from profiles.device import Device

# Files of the kernel's control groups (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
NO_LIMIT_BYTES = 1 << 60  # version 1 writes the largest multiple of a page for "none"


@dataclass(frozen=True)
class Limits:
    """What a container may take. None: as much as there is. `notes`: what of the device this machine cannot give.
    `gpus`: whether it sees the machine's NVIDIA GPUs, which a Docker daemon must be told."""

    processors: int | None = None
    memory_bytes: int | None = None
    notes: tuple[str, ...] = ()
    gpus: bool = False


def limits_of(device: Device, runtime: str) -> Limits:
    """The device's memory, and as many processors as the runtime has threads there.

    A microcontroller's memory limits its firmware and not the emulator around it: no memory limit then.
    """
    threads = device.runtimes[runtime].options.get("threads") if runtime in device.runtimes else None
    memory_bytes = None if device.memory.flash_bytes else device.memory.ram_bytes
    notes = []
    here = len(usable_cores())
    if threads and threads > here:
        notes.append(f"the device gives {threads} processors, this machine has {here}")
    present_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory_bytes and memory_bytes > present_bytes:
        notes.append(f"the device has {memory_bytes / 1e9:.1f} GB of memory, this machine {present_bytes / 1e9:.1f} GB")
    return Limits(min(threads, here) if threads else None, memory_bytes, tuple(notes))


def seen() -> dict[str, Any]:
    """What this process finds: its number, user, processors, memory limit, network, and the machine."""
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "processors": len(usable_cores()),
        "memory_limit_bytes": _memory_limit(),
        "network": _network(),
        "machine": machine(),
        "cpu": cpu_model(),
    }


def wrong_setup(found: Mapping[str, Any]) -> str | None:
    """Why nothing must be measured under these conditions; None if it may. `found`: see `seen`."""
    if found["pid"] == 1:
        return (
            "this process has the number 1, which gets no signals by default: a crash under emulation would hang for "
            "ever; start the container with --init"
        )
    if found["machine"] != "aarch64":
        return None
    from targets.remote.agent import hello
    from targets.remote.traps import processor_mismatch

    return processor_mismatch(hello())


def unenforced(asked: Limits, found: Mapping[str, Any], engine: str) -> list[str]:
    """One sentence for each limit that was asked for and that the process does not find, and what is done instead."""
    notes = list(asked.notes)
    limit = found["memory_limit_bytes"]
    if asked.memory_bytes and (limit is None or limit > asked.memory_bytes):
        notes.append(
            f"{engine} does not enforce the memory limit of {asked.memory_bytes / 1e6:.0f} MB: "
            "the harness watched its own resident memory instead"
        )
    if asked.processors and found["processors"] > asked.processors:
        notes.append(f"{engine} does not enforce the limit of {asked.processors} processors: {found['processors']}")
    if found["network"]:
        notes.append(f"{engine} gave the container a network ({', '.join(found['network'])}) that it does not need")
    return notes


def _memory_limit() -> int | None:
    """Of this process's control group; None if it has none that it can see."""
    for name in MEMORY_LIMITS:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < NO_LIMIT_BYTES else None
    return None


def _network() -> list[str]:
    """Interfaces but the loopback's."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return [name for line in lines if (name := line.partition(":")[0].strip()) not in ("lo", "")]
