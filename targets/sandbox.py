"""Run a function in a child process with a time and a memory limit.

Conversions and sessions of others' code can crash, hang or eat the machine's memory; here each becomes one
`SandboxError` with a reason. Arguments and results travel as JSON and .npz in a temporary directory, never as pickle.

Memory is limited by watching the resident memory of the child and its descendants, not by RLIMIT_AS or RLIMIT_DATA:
torch and OpenVINO reserve far more address space than they use. A child may pass the limit for the 20 ms between two
looks. The child dies with its parent (Linux: PR_SET_PDEATHSIG). This is a fence against accidents, not against malice.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import CompressorError, GateError, MissingError, RequestError
from profiles.storage import load_npz, read_json, save_npz, write_json

POLL_S = 0.02
STDERR_TAIL_BYTES = 4000
PR_SET_PDEATHSIG = 1
_running: set[subprocess.Popen[bytes]] = set()


class SandboxError(CompressorError):
    """The child failed: `reason` is one line, `detail` the end of what it wrote to standard error."""

    exit_code = 1

    def __init__(self, reason: str, detail: str = "", signal_number: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.signal_number = signal_number


@dataclass
class Result:
    """What the function gave, and what it took. `peak_bytes`: largest resident memory seen, descendants included."""

    value: Any
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0


def call(
    function: str,
    kwargs: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    doing: str = "working",
    timeout_s: float = 600.0,
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Call "module:function" in a fresh Python process.

    Args:
        kwargs: JSON values. arrays: passed as the keyword `arrays` if given. doing: for messages ("compiling x").
        memory_bytes: limit of resident memory. None: none.
    The function returns a JSON value, or (JSON value, arrays by name).
    Raises SandboxError if the process dies, hangs, passes the limit or raises; RequestError, MissingError and GateError
    that the function raises arrive as they are.
    """
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder_name:
        folder = Path(folder_name)
        write_json(folder / "request.json", {"function": function, "kwargs": dict(kwargs or {}), "parent": os.getpid()})
        if arrays is not None:
            save_npz(folder / "request.npz", arrays)
        with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "targets.sandbox", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=_environment(environment),
            )
        start = time.monotonic()
        _running.add(process)
        try:
            peak = _watch(process, doing, start, timeout_s, memory_bytes)
        except SandboxError as error:
            error.detail = _tail(folder)
            raise
        finally:
            _running.discard(process)
            _kill_group(process)
        value, results = _outcome(folder, process.returncode, doing)
        return Result(value, results, time.monotonic() - start, peak)


def stop_all() -> None:
    """End the children of all threads; each call raises SandboxError. For a caller that gives up."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """The parent's environment; the child finds the same modules."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(extra or {})}


def _watch(
    process: subprocess.Popen[bytes], doing: str, start: float, timeout_s: float, memory_bytes: int | None
) -> int:
    """Wait for the end; give the largest resident memory seen. Raises SandboxError at a limit."""
    import psutil

    peak = 0
    child = psutil.Process(process.pid)
    while not _ended(process):
        resident = 0
        with contextlib.suppress(psutil.Error):  # it may end while we look
            for member in [child, *child.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    resident += member.memory_info().rss
        peak = max(peak, resident)
        if memory_bytes is not None and resident > memory_bytes:
            raise SandboxError(f"stopped at the memory limit of {memory_bytes / 1e6:.0f} MB while {doing}")
        if time.monotonic() - start > timeout_s:
            raise SandboxError(f"stopped at the time limit of {timeout_s:g} s while {doing}")
    return peak


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait up to POLL_S for the child to end, without reaping it: its process group keeps its number until then."""
    deadline = time.monotonic() + POLL_S
    while time.monotonic() < deadline:
        if not hasattr(os, "waitid"):
            return process.poll() is not None
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(POLL_S / 10)
    return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started; its session is its own, so nobody else is in the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(folder: Path) -> str:
    data = (folder / "stderr").read_bytes()[-STDERR_TAIL_BYTES:]
    return data.decode("utf-8", errors="replace").strip()


def _outcome(folder: Path, code: int, doing: str) -> tuple[Any, dict[str, np.ndarray]]:
    detail = _tail(folder)
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else "unknown"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        raise SandboxError(f"killed by signal {-code} ({name}) while {doing}{hint}", detail, -code)
    if not (folder / "result.json").exists():
        last = detail.splitlines()[-1] if detail else "no message"
        raise SandboxError(f"the process ended with exit code {code} while {doing}: {last}", detail)
    result = read_json(folder / "result.json")
    if "error" in result:
        error = result["error"]
        for kind in (RequestError, MissingError, GateError):
            if error["type"] == kind.__name__:
                raise kind(error["message"])
        raise SandboxError(f"{error['type']} while {doing}: {error['message']}", error["traceback"])
    arrays = load_npz(folder / "result.npz") if (folder / "result.npz").exists() else {}
    return result["value"], arrays


# -- in the child --------------------------------------------------------------------------------------------------


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] if lines else "no message"


def _main(folder: Path) -> None:
    request = read_json(folder / "request.json")
    _die_with_parent(request["parent"])
    faulthandler.enable()
    with contextlib.suppress(ImportError, ValueError, OSError):  # no core files of a crash where they can be refused
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        module, _, name = request["function"].partition(":")
        kwargs = dict(request["kwargs"])
        if (folder / "request.npz").exists():
            kwargs["arrays"] = load_npz(folder / "request.npz")
        value = getattr(importlib.import_module(module), name)(**kwargs)
        arrays: Mapping[str, np.ndarray] | None = None
        if isinstance(value, tuple):
            value, arrays = value
            save_npz(folder / "result.npz", arrays)
        json.dumps(value, allow_nan=False)
        write_json(folder / "result.json", {"value": value})
    except Exception as error:
        report = {"type": type(error).__name__, "message": _one_line(error), "traceback": traceback.format_exc()}
        write_json(folder / "result.json", {"error": report})


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the result is written: a runtime that crashes in its destructors no longer matters
