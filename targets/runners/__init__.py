"""Runners: where an artifact is measured. `local` is this machine; later ones push it to a device or an emulator.

A runner is one module in this package with a module-level class `Runner`, found by the name of the module. A remote
runner copies the artifact's directory, runs `targets.harness:measure` there (numpy and one runtime), and copies the
JSON and arrays back.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol

from profiles.errors import RequestError

if TYPE_CHECKING:
    from profiles.device import Device
    from targets.artifact import Artifact
    from targets.measurement import Measurement


class Runner(Protocol):
    """Measures artifacts somewhere."""

    def info(self) -> dict[str, Any]:
        """The machine that runs: cpu, cores, memory, system."""
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
    """The runner called `name` ("local", ...). Raises RequestError if there is none."""
    names = list_runners()
    if name not in names:
        raise RequestError(f"unknown runner {name!r}: there are {', '.join(names)}")
    return importlib.import_module(f"{__name__}.{name}").Runner(**options)
