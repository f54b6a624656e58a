"""Runners: where an artifact is measured. `local` is this machine; others reach an emulator, a container or a device.

A runner is one module in this package with a module-level class `Runner`, found by the name of the module. It gives a
`Place`, a folder of our own over there, which does four things: `info`, `push`, `run`, `pull` (`start` is `run` for a
program that goes on answering). `measure` is made of these, once for all runners that have a shell on the other side:
see targets/remote. Whatever goes wrong there (it hangs, disconnects, fills its disk, answers garbage) is one
DeviceError within its time limit, and leaving the place ends what runs in it and removes what lies in it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from profiles.errors import RequestError
from targets.remote.place import Completed, DeviceError

if TYPE_CHECKING:
    from profiles.device import Device
    from targets.artifact import Artifact
    from targets.measurement import Measurement
    from targets.remote.channel import Channel

__all__ = ["Completed", "DeviceError", "Place", "Runner", "get_runner", "list_runners"]


class Place(Protocol):
    """A folder of our own on a device. A context manager: leaving it ends what was started there and removes the
    folder. Every method raises DeviceError, in one line, when the device does not do it in time."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def info(self) -> dict[str, Any]:
        """The machine over there, asked of itself: machine, cpu, cores, memory_bytes, system."""
        ...

    def push(self, source: Path, name: str) -> None:
        """Copy a file or a directory to `name` in the folder, whole (checked by SHA-256) or not at all."""
        ...

    def run(
        self, command: Sequence[str], *, doing: str, timeout_s: float | None = None, stdin: bytes = b""
    ) -> Completed:
        """Run a program in the folder to its end. An exit code that is not 0 is a DeviceError with its last line."""
        ...

    def start(self, command: Sequence[str], *, doing: str, timeout_s: float | None = None) -> Channel:
        """Start a program in the folder that reads requests and writes answers; `timeout_s` is for each answer."""
        ...

    def pull(self, name: str, destination: Path) -> None:
        """Copy a file or a directory of the folder here, whole or not at all."""
        ...


class Runner(Protocol):
    """Measures artifacts somewhere. Made with `timeout_s` (of a whole measurement) and `memory_bytes`."""

    def info(self) -> dict[str, Any]:
        """This machine, and the tool that reaches the other one."""
        ...

    def place(self, device: Device) -> Place:
        """A folder on the device. Raises RequestError for options that are wrong, MissingError without the tools."""
        ...

    def missing(self, artifact: Artifact, device: Device) -> str | None:
        """What this machine lacks to run the artifact this way, and how to get it; None if it lacks nothing."""
        ...

    def measure(self, artifact: Artifact, device: Device, **settings: Any) -> Measurement:
        """Run the harness on an artifact; `settings` are those of `targets.harness.measure`.

        Raises SandboxError if the artifact crashes, hangs or takes too much memory there.
        """
        ...


def list_runners() -> list[str]:
    """The names of all runners."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def get_runner(name: str, **options: Any) -> Runner:
    """The runner called `name` ("local", ...), or "NAME:ADDRESS" of one device ("ssh:pi@raspberrypi.local").

    Raises RequestError if there is none, or if it takes no address.
    """
    name, colon, address = name.partition(":")
    names = list_runners()
    if name not in names:
        raise RequestError(f"unknown runner {name!r}: there are {', '.join(names)}")
    runner = importlib.import_module(f"{__name__}.{name}").Runner
    if not colon:
        return runner(**options)
    if "address" not in inspect.signature(runner).parameters or not address:
        raise RequestError(f"runner {name}: {address!r} is no address of a device that it reaches")
    return runner(**options, address=address)
