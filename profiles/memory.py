"""Resident memory of this process, in bytes. The interpreter and its libraries count: a device must hold them, too."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Memory that is resident now."""
    value = _status_bytes("VmRSS")
    if value is None:
        import psutil

        value = psutil.Process().memory_info().rss
    return value


def peak_resident_bytes() -> int:
    """The most memory that was resident since the process started, or since `reset_peak`."""
    value = _status_bytes("VmHWM")
    return _ru_maxrss_bytes() if value is None else value


def reset_peak() -> bool:
    """Let the peak start again from what is resident now. False where the system cannot: the peak then covers the past.

    Linux only: "5" in /proc/self/clear_refs (man 5 proc). Some containers mount it read-only.
    """
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int | None:
    """A field of /proc/self/status ("VmHWM:  1234 kB"); None without /proc or where the kernel leaves it out."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            number, unit = value.split()
            if unit != "kB":
                raise ValueError(f"/proc/self/status gives {key} in {unit!r}, not in kB")
            return int(number) * 1024
    return None


def _ru_maxrss_bytes() -> int:
    """getrusage's peak, which is in kB on Linux and in bytes on macOS."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
