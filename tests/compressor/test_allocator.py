"""Large tensors that come and go no longer cost page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from compressor.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("no glibc"); sys.exit()
for step in range(14):
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(1 << 24) for _ in range(2)]  # 64 MB each: beyond the size at which glibc adapts
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    kept = faults("keep")
    if kept == "no glibc":
        pytest.skip("this system's allocator is not glibc's")
    assert int(kept) < 0.3 * int(faults("leave"))
