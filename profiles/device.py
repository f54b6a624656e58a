"""Device profiles: what a device offers, when a latency measured here counts for it, and what it allows.

A device is one YAML file: those beside this module by name, any other by its path.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from profiles.errors import RequestError
from profiles.host import cpu_model, host_info, machine, normal_machine
from profiles.results import BudgetState, Precision, Record, one_line
from profiles.yaml_files import read_mapping

__all__ = ["Budget", "Device", "budget_values", "host_info", "list_devices", "load_device"]

DEVICES = Path(__file__).with_name("devices")
HOST = "host"
DeviceClass = Literal["gpu", "cpu", "mobile", "wearable"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True)


class _Open(_Strict):
    """A kind and whatever options that kind takes; who uses the kind checks them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    kind: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Matches(_Strict):
    """The machine that a latency must come from. `cpu` is one or more words of the processor's name, upper or lower
    case."""

    machine: str | None = None
    cpu: str | None = None


class RuntimeProfile(_Strict):
    """What this device runs with one runtime. `options` belong to the runtime, which checks them."""

    precisions: list[Precision] = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("precisions")
    @classmethod
    def _no_duplicates(cls, value: list[Precision]) -> list[Precision]:
        if len(set(value)) != len(value):
            raise ValueError("a precision stands there twice")
        return value


class DeviceMemory(_Strict):
    """Bytes that the device has. Microcontrollers have flash and RAM of their own, computers only RAM."""

    ram_bytes: int | None = Field(default=None, gt=0)
    flash_bytes: int | None = Field(default=None, gt=0)


class Budget(_Strict):
    """The most that a student may cost on this device. What is not given is not limited."""

    latency_ms: float | None = Field(default=None, gt=0)  # p50 of one query
    artifact_bytes: float | None = Field(default=None, gt=0)
    metric_drop: float | None = Field(default=None, ge=0)  # below the float model, in the metric's own unit
    macs: float | None = Field(default=None, gt=0)
    instructions: float | None = Field(default=None, gt=0)
    npu_cycles: float | None = Field(default=None, gt=0)
    peak_bytes: float | None = Field(default=None, gt=0)
    arena_bytes: float | None = Field(default=None, gt=0)


class Runner(_Open):
    """How to reach the device itself: `kind` (ssh, adb, ...) and its options."""


class Emulator(_Open):
    """What can stand in for the device's arithmetic, never for its time: `kind` (qemu_user, ...) and its options."""


class Device(_Strict):
    """A device profile. Runtimes stand in order of preference."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    class_: DeviceClass = Field(alias="class")
    summary: str
    matches: Matches | None = None
    runtimes: dict[str, RuntimeProfile] = Field(min_length=1)
    memory: DeviceMemory = DeviceMemory()
    budget: Budget = Budget()
    runner: Runner | None = None
    emulator: Emulator | None = None
    docker: str | None = None

    def matches_this_machine(self) -> bool:
        """Whether a latency measured here is this device's. The device `host` is this machine."""
        return self.name == HOST or self.is_machine(machine(), cpu_model())

    def is_machine(self, machine: str, cpu: str) -> bool:
        """Whether a machine with this instruction set and processor is this device."""
        if self.matches is None or (self.matches.machine is None and self.matches.cpu is None):
            return False
        if self.matches.machine is not None and normal_machine(self.matches.machine) != normal_machine(machine):
            return False
        if self.matches.cpu is None:
            return True
        # whole words: a Cortex-A72 is no Cortex-A7
        return re.search(rf"(?<!\w){re.escape(self.matches.cpu)}(?!\w)", cpu, re.IGNORECASE) is not None

    def limits(self) -> dict[str, float]:
        """Every limit of the device by name: its budget, then what its memory holds."""
        given = {**self.budget.model_dump(exclude_none=True), **self.memory.model_dump(exclude_none=True)}
        return {name: float(limit) for name, limit in given.items()}

    def evaluate_budget(self, values: Mapping[str, float | None]) -> dict[str, BudgetState]:
        """Compare what was measured with every limit. What was not measured is "unknown", never passed.

        `values` holds the measurements under the names of `limits()`; see `budget_values`.
        """
        states: dict[str, BudgetState] = {}
        for name, limit in self.limits().items():
            value = values.get(name)
            state: Literal["passed", "missed", "unknown"] = "unknown"
            if value is not None:
                state = "passed" if value <= limit else "missed"
            states[name] = BudgetState(limit=limit, value=value, state=state)
        return states


def budget_values(record: Record) -> dict[str, float | None]:
    """What a record has measured of the things that a device may limit. Not measured: None."""
    memory, metric, cost = record.memory_bytes, record.task_metric, record.cost
    drop = None
    if metric is not None and metric.float_value is not None:
        drop = (metric.float_value - metric.value) * (1 if metric.higher_is_better else -1)
    ram = None if memory is None else (memory.ram if memory.ram is not None else memory.peak)
    # A compiler's estimate is no measurement: it leaves the limit unknown.
    counted = cost if cost is not None and cost.source == "counted" else None
    return {
        "latency_ms": record.latency_ms.p50 if record.latency_ms else None,
        "artifact_bytes": record.artifact_bytes,
        "metric_drop": drop,
        "macs": record.macs,
        "instructions": counted.value if counted and counted.kind == "instructions" else None,
        "npu_cycles": counted.value if counted and counted.kind == "npu_cycles" else None,
        "peak_bytes": memory.peak if memory else None,
        "arena_bytes": memory.arena if memory else None,
        "ram_bytes": ram,
        "flash_bytes": memory.flash if memory else None,
    }


def list_devices() -> list[str]:
    """The names of the shipped devices: `host` first, then in order, numbers by their value (m7 before m33)."""

    def order(name: str) -> tuple[bool, list[tuple[str, int]]]:
        return name != HOST, [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]

    return sorted((path.stem for path in DEVICES.glob("*.yaml")), key=order)


def load_device(name: str | Path) -> Device:
    """A shipped device by name, or any other by the path of its YAML file.

    Raises RequestError for a name that is not there (with the nearest ones), and for a file that is not a profile.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        return _read(Path(text))
    names = list_devices()
    if text in names:
        return _read(DEVICES / f"{text}.yaml")
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    raise RequestError(f"no device {text!r}: {hint} (or give the path of a .yaml profile)")


def _read(path: Path) -> Device:
    value = read_mapping(path, "a device profile")
    try:
        device = Device.model_validate(value)
    except ValidationError as error:
        raise RequestError(f"{path}: {one_line(error)}") from None
    if device.name != path.stem and path.parent == DEVICES:
        raise RequestError(f"{path}: name is {device.name!r}; it must be the file's name, {path.stem!r}")
    return device
