"""A microcontroller itself, behind a debug probe that OpenOCD drives: the firmware of `qemu_system`, on the real core.

OpenOCD writes the firmware into flash, starts it, and is its host: rows go in and answers come out through semihosting,
the same requests that QEMU serves, over the probe's wire. It shows the arithmetic, and how the model fits the device's
own memory; time is not measured (a request halts the core), and nothing is counted.

Options of the device profile's `runner`: `core` (m3, m4, m7, m33, m55), `interface` and `target` (OpenOCD's
configuration files, e.g. interface/stlink.cfg and target/stm32f4x.cfg), `flash_address`, `ram_address`, `serial` (of
the probe, where there are several; or `--runner probe:SERIAL`), `stack_bytes` (what the model's stack may take). The
profile's memory says how much flash and RAM there is.
"""

from __future__ import annotations

import select
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import MissingError, RequestError
from profiles.results import RanOn
from profiles.storage import read_json
from targets import harness, sandbox
from targets.artifact import Artifact
from targets.firmware.boards import VECTORS_BYTES, Board, board_of
from targets.firmware.build import MODEL_STACK_BYTES, Firmware, build
from targets.firmware.emulator import Emulator
from targets.firmware.session import QemuSession
from targets.measurement import Measurement
from targets.remote.limits import EVALUATION_SHARE, evaluation_limit, passes
from targets.remote.reference import against_this_machine
from targets.runners.local import LocalRunner

if TYPE_CHECKING:
    from profiles.device import Device

KIND, RUNTIME = "probe", "c"
NEEDED = ("core", "interface", "target", "flash_address", "ram_address")
OPTIONS = (*NEEDED, "serial", "stack_bytes")
ROW_TIMEOUT_S = 120.0  # a wire of some KB per second, and the first row waits for the flash to be written
ENDLESS_MS = 86_400_000
FAULT, FAULT_S = b"\nfirmware: fault", 1.0  # what a fault's message begins with (startup.c)


class Probe(Emulator):
    """OpenOCD and the core behind it, in place of QEMU. It says what the firmware prints on its standard output."""

    host = "OpenOCD"

    def __init__(self, firmware: Firmware, command: Sequence[str], *, timeout_s: float = ROW_TIMEOUT_S) -> None:
        self._openocd, self._taken = command, b""
        super().__init__(firmware, timeout_s=timeout_s)

    def _command(self, options: Sequence[str]) -> list[str]:
        return [*self._openocd, "-c", script(self.firmware.elf.resolve())]

    def ask(self, request: bytes) -> bytes:
        """As of QEMU; but a fault is told on the stream of the answers: it looks like one, and goes on after it."""
        reply = super().ask(request)
        if FAULT.startswith(reply[: len(FAULT)]) and self._goes_on():
            self._taken = reply
            raise self._died()
        return reply

    def _goes_on(self) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout.fileno()], [], [], FAULT_S)[0])

    def _text(self) -> str:
        assert self._process.stdout is not None
        rest = b"" if self._process.stdout.closed else self._process.stdout.read() or b""
        return super()._text() + (self._taken + rest).decode("utf-8", errors="replace")


def script(elf: Path) -> str:
    """What OpenOCD does: write, check, run with semihosting until the firmware ends, and end itself."""
    return f"program {{{elf}}} verify; arm semihosting enable; reset run; wait_halt {ENDLESS_MS}; reset halt; shutdown"


class ProbeRunner(LocalRunner):
    """Writes the firmware into the device and runs the harness with its sessions there."""

    def __init__(self, timeout_s: float = 900.0, memory_bytes: int | None = None, address: str | None = None) -> None:
        super().__init__(timeout_s, memory_bytes)
        self.address = address

    def ran_on(self, device: Device, machine: dict[str, Any] | None = None) -> RanOn | None:
        """The device, once it has answered."""
        return RanOn(kind="device", name=device.name) if machine else None

    def measure(self, artifact: Artifact, device: Device, **settings: Any) -> Measurement:
        """Run the harness on the device's core; see `LocalRunner.measure`. Latency is never measured.

        Raises RequestError for an artifact that is no C or options that are wrong, MissingError without OpenOCD.
        """
        if artifact.runtime != RUNTIME:
            raise RequestError(f"{artifact.path}: {KIND} runs the runtime {RUNTIME}, this is {artifact.runtime}")
        options_of(device)
        _openocd()
        return super().measure(artifact, device, **{**settings, "latency": False})

    def _run(
        self, artifact: Artifact, device: Device, label: str, settings: dict[str, Any]
    ) -> tuple[sandbox.Result, dict[str, int]]:
        options = options_of(device) | ({"serial": self.address} if self.address else {})
        arguments = {
            "artifact": str(artifact.path),
            "options": options,
            "flash_bytes": device.memory.flash_bytes,
            "ram_bytes": device.memory.ram_bytes,
            "timeout_s": self.timeout_s,
            "settings": settings,
        }
        return self._call(f"{__name__}:measure_behind_probe", arguments, label), {}


def options_of(device: Device) -> dict[str, Any]:
    """The options of the device's probe. Raises RequestError if one is missing or not known."""
    where = f"device {device.name}"
    given = device.runner.options if device.runner and device.runner.kind == KIND else {}
    if unknown := [name for name in given if name not in OPTIONS]:
        raise RequestError(f"{where}: unknown option {unknown[0]!r} of {KIND}: there are {', '.join(OPTIONS)}")
    if missing := [name for name in NEEDED if name not in given]:
        raise RequestError(f"{where}: its runner must be of kind {KIND} and say {', '.join(missing)}")
    if device.memory.flash_bytes is None or device.memory.ram_bytes is None:
        raise RequestError(f"{where}: memory must say flash_bytes and ram_bytes")
    board_of(given["core"])
    return given


def board(options: dict[str, Any], flash_bytes: int, ram_bytes: int) -> Board:
    """The device's own memory: the core's vectors at the beginning of flash, code behind them."""
    return replace(
        board_of(options["core"]),
        machine=f"{options['target']} behind a debug probe",
        vectors=options["flash_address"],
        flash=options["flash_address"] + VECTORS_BYTES,
        flash_bytes=flash_bytes - VECTORS_BYTES,
        ram=options["ram_address"],
        ram_bytes=ram_bytes,
    )


def command(options: dict[str, Any]) -> list[str]:
    """OpenOCD up to what it shall do."""
    serial = ["-c", f"adapter serial {options['serial']}"] if "serial" in options else []
    return [_openocd(), "-f", options["interface"], *serial, "-f", options["target"]]


def measure_behind_probe(
    artifact: str,
    options: dict[str, Any],
    flash_bytes: int,
    ram_bytes: int,
    timeout_s: float,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `targets.harness.measure` gives, with memory and notes. Runs in the sandbox.

    One firmware at a time is in the device, so one graph is all that can be asked: a student of several is refused.
    """
    deadline = time.monotonic() + timeout_s
    opened = Artifact.open(artifact)
    if len(opened.graphs) != 1:
        raise RequestError(f"{artifact}: has {len(opened.graphs)} graphs, and the device holds one firmware at a time")
    (name,) = opened.graphs
    folder, graph = opened.files(name)[0].parent, opened.graphs[name]
    where = board(options, flash_bytes, ram_bytes)
    stack_bytes = options.get("stack_bytes", MODEL_STACK_BYTES)
    optimization = opened.manifest["graphs"][name]["options"].get("optimization", "O2")
    with tempfile.TemporaryDirectory(prefix="compressor-") as out, ExitStack() as stack:
        firmware = build(folder, where, optimization, Path(out), model_stack_bytes=stack_bytes)
        core = Probe(firmware, command(options))
        session = stack.enter_context(QemuSession(graph, firmware, read_json(folder / "model.json"), board=core))
        inputs, _ = opened.golden(name)
        first = opened.first_row(name)
        session(first)  # the flash is written before the first answer
        start = time.monotonic()
        session(first)
        row_s = time.monotonic() - start
        left_s = EVALUATION_SHARE * (deadline - time.monotonic() - 2 * row_s * len(next(iter(inputs.values()))))
        limit, note = evaluation_limit(passes(opened, {name: session}, settings), row_s, left_s, settings.get("limit"))
        report, arrays = harness.measure(artifact, **{**settings, "limit": limit}, sessions={name: session})
        compared, problem = against_this_machine(opened, name, session)
    memory = {
        "arena": firmware.arena_bytes, "flash": firmware.flash_bytes, "ram": firmware.ram_bytes,
        "stack": session.stack_bytes,
    }  # fmt: skip
    entry = report["graphs"][name]
    entry.update(this_machine=compared, failure=entry["failure"] or problem, cost=None, memory=memory)
    entry["notes"] = [text for text in (compared["note"], note) if text]
    report["peak_bytes"], report["machine"] = None, {"machine": where.machine}
    return report, arrays


def _openocd() -> str:
    found = shutil.which("openocd")
    if found is None:
        raise MissingError("openocd is not installed: apt install openocd")
    return found


Runner = ProbeRunner
