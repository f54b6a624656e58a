"""Runners: where an artifact is measured. `local` is this machine; others reach an emulator, a container or a device.

A runner is one module in this package with a module-level class `Runner`, found by the name of the module. One that
has a shell on the other side gives a place, a folder of our own over there, which does four things: `info`, `push`,
`run`, `pull` (`start` is `run` for a program that goes on answering). `measure` is made of these, once for all of them:
see targets/remote. Whatever goes wrong there (it hangs, disconnects, fills its disk, answers garbage) is one
DeviceError within its time limit, and leaving the place ends what runs in it and removes what lies in it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol

from profiles.errors import RequestError

if TYPE_CHECKING:
    from profiles.device import Device
    from targets.artifact import Artifact
    from targets.measurement import Measurement


class Runner(Protocol):
    """Measures artifacts somewhere. Made with `timeout_s` (of a whole measurement) and `memory_bytes`."""

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
