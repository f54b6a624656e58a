"""Peak memory against blocks of known size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from profiles import memory

MIB = 1 << 20

CHILD = """
from profiles.memory import peak_resident_bytes, reset_peak, resident_bytes
before = peak_resident_bytes()
block = bytearray(64 << 20)
for i in range(0, len(block), 4096):
    block[i] = 1
held = peak_resident_bytes() - before
del block
kept = peak_resident_bytes() - before
reset = reset_peak()
print(held, kept, int(reset), peak_resident_bytes() - before, resident_bytes())
"""


def test_a_block_of_64_mib_raises_the_peak_by_64_mib_and_stays_there_until_the_reset():
    run = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    held, kept, reset, after, resident = map(int, run.stdout.split())
    assert held == pytest.approx(64 * MIB, abs=4 * MIB)
    assert kept == pytest.approx(64 * MIB, abs=4 * MIB)
    assert after < 8 * MIB if reset else after == kept
    assert 4 * MIB < resident < 1024 * MIB


def test_the_fallback_agrees_with_proc():
    if memory._status_bytes("VmHWM") is None:
        pytest.skip("no /proc/self/status here: the fallback is all there is")
    run = subprocess.run(
        [sys.executable, "-c", "import profiles.memory as m; print(m._ru_maxrss_bytes(), m._status_bytes('VmHWM'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    by_rusage, by_proc = map(int, run.stdout.split())
    # A fork inherits its parent's maxrss until exec, so the fallback may only be larger.
    assert by_rusage >= 0.95 * by_proc


def test_without_proc_the_peak_still_has_a_value(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert memory.peak_resident_bytes() > 4 * MIB
    assert memory.resident_bytes() > 4 * MIB
    assert memory.reset_peak() is False


def test_macos_counts_in_bytes(monkeypatch):
    import resource

    class Usage:
        ru_maxrss = 123_456

    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory._ru_maxrss_bytes() == 123_456
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory._ru_maxrss_bytes() == 123_456 * 1024
