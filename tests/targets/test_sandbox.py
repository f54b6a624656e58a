from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from profiles.errors import MissingError, RequestError
from targets import sandbox
from targets.sandbox import SandboxError, call

HERE = "tests.targets.crashers"


def gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def read_pid(path: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} was never written")


def test_values_and_arrays_go_there_and_back() -> None:
    assert call(f"{HERE}:add", {"a": 2, "b": 3}).value == 5
    given = {"x": np.arange(6, dtype=np.int32).reshape(2, 3), "empty": np.zeros((0, 4))}
    result = call(f"{HERE}:double", arrays=given)
    assert result.value == {"x": [2, 3], "empty": [0, 4]}
    np.testing.assert_array_equal(result.arrays["x"], given["x"] * 2)
    assert result.arrays["x"].dtype == np.int32
    assert result.peak_bytes > 1e6 and result.seconds > 0


def test_a_segmentation_fault_is_named_with_what_it_was_doing() -> None:
    with pytest.raises(SandboxError, match=r"^killed by signal 11 \(SIGSEGV\) while compiling net$") as caught:
        call(f"{HERE}:segfault", doing="compiling net")
    assert caught.value.signal_number == signal.SIGSEGV
    assert "about to crash" in caught.value.detail and "segfault" in caught.value.detail  # the Python stack, too


def test_a_caller_that_gives_up_ends_the_calls_of_all_threads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call, f"{HERE}:hang_with_child", {"path": str(tmp_path / name)}) for name in "ab"]
        pids = [read_pid(tmp_path / name) for name in "ab"]
        sandbox.stop_all()
        for running in calls:
            with pytest.raises(SandboxError, match="SIGKILL"):
                running.result(timeout=10)
    assert all(gone(pid) for pid in pids)


def test_an_abort_and_a_silent_exit_are_named() -> None:
    with pytest.raises(SandboxError, match="SIGABRT"):
        call(f"{HERE}:abort")
    with pytest.raises(SandboxError, match=r"exit code 7 .*: the converter gave up"):
        call(f"{HERE}:exit_quietly")


def test_a_hanging_child_and_its_own_children_are_stopped(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SandboxError, match="time limit of 3 s while waiting"):
        call(f"{HERE}:hang_with_child", {"path": str(tmp_path / "pid")}, doing="waiting", timeout_s=3)
    assert time.monotonic() - start < 20
    assert gone(read_pid(tmp_path / "pid"))


def test_memory_is_limited() -> None:
    with pytest.raises(SandboxError, match="memory limit of 300 MB while converting"):
        call(f"{HERE}:eat_memory", doing="converting", memory_bytes=300_000_000, timeout_s=60)


def test_the_user_s_errors_keep_their_kind_and_faults_become_one_line() -> None:
    with pytest.raises(RequestError, match=r"^no such thing: try another$"):
        call(f"{HERE}:wrong_request")
    with pytest.raises(MissingError, match=r"edge-compressor\[nothing\]"):
        call(f"{HERE}:missing_extra")
    with pytest.raises(SandboxError, match=r"^ValueError while trying: a fault of two lines$") as caught:
        call(f"{HERE}:fault", doing="trying")
    assert "Traceback" in caught.value.detail
    with pytest.raises(SandboxError, match="ValueError"):
        call(f"{HERE}:not_json")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    call(f"{HERE}:add", {"a": 1, "b": 1})
    with pytest.raises(SandboxError):
        call(f"{HERE}:segfault")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys; from targets.sandbox import call; "
        f"call('{HERE}:report_pid', {{'path': sys.argv[1]}}, timeout_s=100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "pid")])
    child = read_pid(tmp_path / "pid")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(child)
