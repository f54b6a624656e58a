"""What is freed between steps stays with the process: training takes and gives the same hundreds of MB each step."""

from __future__ import annotations

import ctypes
import functools
import sys

# Numbers of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 1 << 28
NEVER_TRIM_BYTES = (1 << 31) - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed instead of returning it to the system; False where there is no glibc.

    Without it every large tensor is mapped anew and its pages are zeroed on first touch, in every step. The price is
    that resident memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER_TRIM_BYTES), (M_TOP_PAD, TOP_PAD_BYTES))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
