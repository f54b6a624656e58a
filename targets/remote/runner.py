"""What runners that reach another machine through a shell share: `measure`, made of info, push, run and pull."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from profiles.errors import RequestError
from profiles.results import RanOn
from targets import sandbox
from targets.artifact import Artifact
from targets.graph import Arrays
from targets.measurement import Measurement
from targets.runners.local import LocalRunner

if TYPE_CHECKING:
    from profiles.device import Device
    from targets.c.program import Program
    from targets.remote.place import ShellPlace

NOT_COUNTED = (None, None)


class RemoteRunner(LocalRunner):
    """Base of ssh, adb, qemu_user. `address`: of the device, in place of what its profile says."""

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    is_real: ClassVar[bool] = True  # False: an emulator, whose time is nothing

    def __init__(self, timeout_s: float = 900.0, memory_bytes: int | None = None, address: str | None = None) -> None:
        super().__init__(timeout_s, memory_bytes)
        self.address = address

    def place(self, device: Device) -> ShellPlace:
        """A folder on the device. Raises RequestError for options that are wrong, MissingError without the tools."""
        raise NotImplementedError

    def python(self, device: Device, place: ShellPlace) -> list[str] | None:
        """The start of a command that runs Python over there, with our modules; None where there is none."""
        raise NotImplementedError

    def emulator(self, device: Device, place: ShellPlace) -> list[str]:
        """What comes before a static program's name."""
        return []

    def count_program(
        self, device: Device, place: ShellPlace, program: Program, name: str, rows: Sequence[bytes]
    ) -> tuple[float | None, str | None]:
        """(instructions per inference or None, a note or None)."""
        return NOT_COUNTED

    def count_agent(
        self, device: Device, place: ShellPlace, request: dict[str, Any], row: Arrays
    ) -> tuple[float | None, str | None]:
        """(instructions per inference or None, a note or None)."""
        return NOT_COUNTED

    def measure(self, artifact: Artifact, device: Device, **settings: Any) -> Measurement:
        """Run the harness here with its sessions over there; see `LocalRunner.measure`.

        Latency is measured, by the device itself, only where the machine that answers is the device.
        """
        self.settings_of(device)
        return super().measure(artifact, device, **{"latency": None, **settings})

    def settings_of(self, device: Device) -> dict[str, Any]:
        """This kind's options in the device's profile. Raises RequestError for one that there is not."""
        given = next((part for part in (device.runner, device.emulator) if part and part.kind == self.kind), None)
        options = given.options if given else {}
        if unknown := [name for name in options if name not in self.options]:
            raise RequestError(
                f"device {device.name}: unknown option {unknown[0]!r} of {self.kind}: "
                f"there are {', '.join(self.options)}"
            )
        return options

    def ran_on(self, device: Device, machine: dict[str, Any] | None = None) -> RanOn | None:
        """The device, if the machine that answered is one; else that machine, which stands in for its arithmetic."""
        if machine is None:
            return None
        if machine["is_device"]:
            return RanOn(kind="device", name=device.name)
        return RanOn(kind="host", name=f"{machine['cpu']} ({self.kind})")

    def _run(
        self, artifact: Artifact, device: Device, label: str, settings: dict[str, Any]
    ) -> tuple[sandbox.Result, dict[str, int]]:
        arguments = {
            "runner": self.kind,
            "address": self.address,
            "device": device.model_dump(mode="json", by_alias=True),
            "artifact": str(artifact.path),
            "timeout_s": self.timeout_s,
            "settings": settings,
        }
        result = self._call("targets.remote.measure:measure_there", arguments, label)
        graphs = result.value["graphs"]
        if len(graphs) == 1:
            result.value["peak_bytes"] = next(iter(graphs.values())).get("peak_bytes")
        return result, {name: graph["peak_bytes"] for name, graph in graphs.items() if graph.get("peak_bytes")}
