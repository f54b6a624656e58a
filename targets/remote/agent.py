"""What runs on the device: opens an artifact's graphs and answers requests. Needs numpy and one runtime, no more.

    python3 -m targets.remote.agent                    serves requests from standard input
    python3 -m targets.remote.agent count FILE TIMES TIMES ...      one graph, so many inferences between marks, nothing
                                                       else: for the plugin that counts instructions (icount.c)

A message is a line of JSON and the bytes of its arrays: {"do": ..., "arrays": [[name, dtype, shape], ...]}. An answer
is {"value": ..., "arrays": [...]} or {"error": text}. Requests:

    hello                                       what this machine is, as a program on it sees it
    open   graph, runtime, precision, files, options, arrays (one row)     the session's details; runs once
    run    graph, arrays                        the outputs
    time   graph, arrays, seconds, min_samples  milliseconds per call
    peak                                        the most resident memory so far, in bytes

The sessions are those of the target modules themselves; only what they import is on the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from profiles.host import cpu_model_from, machine, usable_cores
from profiles.latency import take_samples
from profiles.memory import peak_resident_bytes
from targets.graph import Arrays, Graph

AT_HWCAP, AT_HWCAP2 = 16, 26  # of getauxval(3)
LINE_LIMIT = 1 << 24
MARK = 0x434F554E  # as in icount.c


def message(head: Mapping[str, Any], arrays: Arrays) -> bytes:
    """A line of JSON, then the arrays' bytes."""
    plain = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    specs = [[name, value.dtype.str, list(value.shape)] for name, value in plain.items()]
    line = json.dumps({**head, "arrays": specs}, allow_nan=False).encode() + b"\n"
    return line + b"".join(value.tobytes() for value in plain.values())


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The next message; None at the end."""
    line = stream.readline(LINE_LIMIT)
    if not line:
        return None
    head = json.loads(line)
    arrays = {}
    for name, dtype, shape in head.get("arrays", ()):
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays[name] = np.frombuffer(_exactly(stream, count), dtype).reshape(shape)
    return head, arrays


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"the request ends after {len(data)} of {count} bytes")
    return data


class Agent:
    """The open graphs of one artifact."""

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}

    def answer(self, head: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        """(value, arrays) for one request."""
        return getattr(self, f"do_{head['do']}")(head, arrays)

    def do_hello(self, head: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        return hello(), {}

    def do_open(self, head: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        """The details, and the bytes that the runtime has taken from the heap for this graph."""
        before = heap_bytes()
        session = open_session(head)
        session(arrays)
        self._sessions[head["graph"]["name"]] = session
        after = heap_bytes()
        taken = after - before if before is not None and after is not None else None
        return {"details": session.details, "heap_bytes": taken}, {}

    def do_run(self, head: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        return None, self._sessions[head["graph"]](arrays)

    def do_time(self, head: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        session = self._sessions[head["graph"]]
        samples, warmup = take_samples(
            lambda: session(arrays), min_samples=head["min_samples"], max_seconds=head["seconds"]
        )
        return {"warmup": warmup}, {"samples_ms": samples}

    def do_peak(self, head: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        return peak_resident_bytes(), {}


def open_session(head: Mapping[str, Any]) -> Any:
    """The session of one compiled graph, by the runtime's own module (looking for others would import too much)."""
    module = importlib.import_module(f"targets.{head['runtime'].replace('-', '_')}")
    files = tuple(Path(file) for file in head["files"])
    return module.target.open(Graph.from_json(head["graph"]), files, head["precision"], head["options"])


def hello() -> dict[str, Any]:
    """This machine as a program on it sees it: what runtimes go by when they choose their kernels."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return {
        "machine": machine(),
        "cpu": cpu_model_from(cpuinfo) or "unknown",
        "cpuinfo": cpuinfo,
        "hwcap": [getauxval(AT_HWCAP), getauxval(AT_HWCAP2)],
        "cores": len(usable_cores()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


class _Mallinfo2(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def heap_bytes() -> int | None:
    """Bytes that this process has from malloc now, large blocks included; None where the C library does not say."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33
    if mallinfo2 is None:
        return None
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more requests."""
    agent = Agent()
    while (request := read_message(requests)) is not None:
        try:
            value, arrays = agent.answer(*request)
            head: dict[str, Any] = {"value": value}
        except Exception as error:
            head, arrays = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}, {}
        answers.write(message(head, arrays))
        answers.flush()


def count(path: str, lengths: Sequence[int]) -> None:
    """Open the graph that a file describes (a request `open` and its row), and run it: so many inferences for each of
    `lengths`, with a mark before, between and after them."""
    with open(path, "rb") as file:
        request = read_message(file)
    assert request is not None
    inference = open_session(request[0]).inference(request[1])
    inference()  # what the first one alone does
    mark()
    for times in lengths:
        for _ in range(times):
            inference()
        mark()


def mark() -> None:
    """A system call that means nothing, but that the plugin knows by its argument: there is no such process group."""
    with contextlib.suppress(ProcessLookupError):
        os.getpgid(MARK)


def main() -> None:
    if sys.argv[1:2] == ["count"]:
        count(sys.argv[2], [int(times) for times in sys.argv[3:]])
    else:
        # what a runtime prints must not come between the answers
        with os.fdopen(os.dup(1), "wb") as answers:
            os.dup2(2, 1)
            serve(sys.stdin.buffer, answers)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a runtime that crashes in its destructors no longer matters


if __name__ == "__main__":
    main()
