"""What the sandbox must survive. Called by name from a child process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

import numpy as np

from profiles.errors import MissingError, RequestError


def add(a: int, b: int) -> int:
    return a + b


def double(arrays: dict[str, np.ndarray]) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    return {name: list(value.shape) for name, value in arrays.items()}, {k: v * 2 for k, v in arrays.items()}


def segfault() -> None:
    print("about to crash", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def exit_quietly() -> None:
    sys.stderr.write("the converter gave up\n")
    sys.stderr.flush()
    os._exit(7)


def hang() -> None:
    time.sleep(120)


def hang_with_child(path: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    time.sleep(120)


def eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(np.ones(10_000_000 // 8))
        time.sleep(0.01)


def wrong_request() -> None:
    raise RequestError("no such thing: try another")


def missing_extra() -> None:
    raise MissingError("nothing is not installed: pip install 'edge-compressor[nothing]'")


def fault() -> None:
    raise ValueError("a fault\nof two lines")


def not_json() -> object:
    return {"value": float("nan")}


def report_pid(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(120)
