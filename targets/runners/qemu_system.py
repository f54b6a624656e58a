"""A Cortex-M board under QEMU: the generated C on the emulated core. It shows the arithmetic, the memory and the
instructions that the device will need, never its time.

Options of the device profile's `emulator`: `core` (m3, m4, m7, m33, m55), `machine` (must be the board of that core),
`stack_bytes` (what the model's stack may take).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import RequestError
from profiles.results import RanOn
from profiles.storage import read_json
from targets import harness, sandbox
from targets.artifact import Artifact
from targets.firmware import BOARDS, Board, Firmware, FirmwareError, Profile, board_of, build, profile
from targets.firmware.boards import program
from targets.firmware.build import COMPILER, MODEL_STACK_BYTES
from targets.firmware.emulator import QEMU, ROW_TIMEOUT_S, qemu_version
from targets.firmware.query import QUERIES, program_writer, whole_query
from targets.firmware.rows import encode
from targets.firmware.session import QemuSession
from targets.measurement import Measurement
from targets.remote.limits import EVALUATION_SHARE, evaluation_limit, passes, splits_of
from targets.runners.local import LocalRunner

if TYPE_CHECKING:
    from profiles.device import Device

RUNTIME = "c"
OPTIONS = ("core", "machine", "stack_bytes")
COUNTED_ROWS = 8
WITHOUT_GLUE = "instructions and memory are those of the graphs, without the glue's"


class QemuSystemRunner(LocalRunner):
    """Builds the firmware and runs the harness on the emulated core, within the time limit of the sandbox."""

    def ran_on(self, device: Device, machine: dict[str, Any] | None = None) -> RanOn:
        board = _board(device)
        return RanOn(kind="emulator", name=f"{QEMU} {qemu_version()} {board.machine} ({board.cpu})")

    def measure(self, artifact: Artifact, device: Device, **settings: Any) -> Measurement:
        """Run the harness on the emulated core; see `LocalRunner.measure`. Latency is never measured.

        Raises SandboxError when the firmware does not fit, faults, overflows its stack or hangs; RequestError for an
        artifact that is no C or a device without this emulator; MissingError without QEMU or the compiler.
        """
        if artifact.runtime != RUNTIME:
            raise RequestError(f"{artifact.path}: qemu_system runs the runtime {RUNTIME}, this is {artifact.runtime}")
        for name in (QEMU, COMPILER):
            program(name)
        return super().measure(artifact, device, **{**settings, "latency": False})

    def _run(
        self, artifact: Artifact, device: Device, label: str, settings: dict[str, Any]
    ) -> tuple[sandbox.Result, dict[str, int]]:
        arguments = {
            "artifact": str(artifact.path),
            "core": _board(device).core,
            "stack_bytes": _options(device).get("stack_bytes", MODEL_STACK_BYTES),
            "flash_bytes": device.memory.flash_bytes,
            "ram_bytes": device.memory.ram_bytes,
            "timeout_s": self.timeout_s,
            "settings": settings,
        }
        return self._call(f"{__name__}:measure_emulated", arguments, label), {}


def measure_emulated(
    artifact: str,
    core: str,
    stack_bytes: int,
    flash_bytes: int | None,
    ram_bytes: int | None,
    timeout_s: float,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `targets.harness.measure` gives, with cost, memory and notes of every graph. Runs in the sandbox."""
    deadline = time.monotonic() + timeout_s
    opened = Artifact.open(artifact)
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder, ExitStack() as stack:
        graphs: dict[str, _EmulatedGraph] = {}
        for name in opened.graphs:
            if opened.files(name):
                firmware = build(
                    opened.files(name)[0].parent,
                    core,
                    _optimization(opened, name, settings),
                    Path(folder) / name,
                    model_stack_bytes=stack_bytes,
                    flash_bytes=flash_bytes,
                    ram_bytes=ram_bytes,
                )
                graphs[name] = _open(opened, name, firmware, timeout_s, stack)
        sessions = {name: graph.session for name, graph in graphs.items()}
        item_s = _item_s(opened, graphs)
        golden_s = sum(graph.row_s * graph.golden_rows for graph in graphs.values())
        left_s = EVALUATION_SHARE * (deadline - time.monotonic() - golden_s)
        limit, note = evaluation_limit(passes(opened, sessions, settings), item_s, left_s, settings.get("limit"))
        report, arrays = harness.measure(artifact, **{**settings, "limit": limit}, sessions=sessions)
        left_s = deadline - time.monotonic()
        report["whole"], of_query = _whole(opened, graphs, settings, core, stack_bytes, left_s, Path(folder) / "whole")
    report["peak_bytes"] = None
    for name, graph in graphs.items():
        report["graphs"][name].update(graph.findings(note, of_query))
    return report, arrays


@dataclass(frozen=True)
class _EmulatedGraph:
    """A graph on the board, and what a few of its golden rows took. `row_s`: seconds of this machine per row."""

    firmware: Firmware
    session: QemuSession
    found: Profile
    golden_rows: int
    row_s: float

    def findings(self, *notes_of_all: str | None) -> dict[str, Any]:
        """Cost, memory and notes for the report, when the session was closed."""
        counts, notes = self.found.instructions, [self.found.note, *notes_of_all]
        if counts and min(counts) != max(counts):
            notes.append(
                f"instructions vary with the input: {min(counts):,} to {max(counts):,} over {len(counts)} rows"
            )
        cost = {"kind": "instructions", "value": fmean(counts), "source": "counted"} if counts else None
        memory = {
            "arena": self.firmware.arena_bytes,
            "flash": self.firmware.flash_bytes,
            "ram": self.firmware.ram_bytes,
            "stack": max(self.found.stack_bytes, self.session.stack_bytes or 0),
        }
        return {"cost": cost, "memory": memory, "notes": [text for text in notes if text]}


def _open(artifact: Artifact, name: str, firmware: Firmware, timeout_s: float, stack: ExitStack) -> _EmulatedGraph:
    manifest = read_json(artifact.files(name)[0].parent / "model.json")
    graph, (inputs, _) = artifact.graphs[name], artifact.golden(name)
    requests = encode(graph, manifest, inputs)[:COUNTED_ROWS]
    timeout_s = min(timeout_s, ROW_TIMEOUT_S)
    found = profile(firmware, requests, timeout_s)
    session = stack.enter_context(QemuSession(graph, firmware, manifest, timeout_s))
    feeds = {key: value[:COUNTED_ROWS] for key, value in inputs.items()}
    session(feeds)  # QEMU translates the code while it first runs
    start = time.monotonic()
    session(feeds)
    row_s = (time.monotonic() - start) / len(requests)
    return _EmulatedGraph(firmware, session, found, len(next(iter(inputs.values()))), row_s)


def _whole(
    artifact: Artifact,
    graphs: Mapping[str, _EmulatedGraph],
    settings: Mapping[str, Any],
    core: str,
    stack_bytes: int,
    left_s: float,
    folder: Path,
) -> tuple[dict[str, Any] | None, str | None]:
    """The report of a whole query as one program, and a note; None where the task writes no such programs.

    The program may be larger than the device's memory (the gallery is in it): then the device's budget is missed.
    """
    splits = splits_of(artifact, settings)
    writer = program_writer(artifact.manifest["glue"])
    if writer is None or not splits or len(graphs) < len(artifact.graphs):
        return None, None
    student = artifact.student(sessions={name: graph.session for name, graph in graphs.items()})
    # each query is answered twice, once while it is counted, which takes some times longer
    count = max(1, min(QUERIES, int(left_s / (10 * max(_item_s(artifact, graphs), 1e-3)))))
    optimization = _optimization(artifact, next(iter(graphs)), settings)
    try:
        program = writer(student, artifact, artifact.split(splits[0]), count, folder)
        firmware = build(program.folder, core, optimization, folder / "build", model_stack_bytes=stack_bytes)
        # a program whose graphs share an arena says so itself
        arena_bytes = firmware.arena_bytes or sum(graph.firmware.arena_bytes or 0 for graph in graphs.values())
        found = whole_query(program, firmware, arena_bytes, min(left_s, ROW_TIMEOUT_S))
    except (RequestError, FirmwareError) as error:
        return None, f"{WITHOUT_GLUE}: {error}"
    answers = f"{found.agreed} of {found.queries} answers are those of the student's glue"
    if not found.agrees:
        return None, f"{WITHOUT_GLUE}: of the program for a whole query only {answers}"
    return found.to_json(), f"a whole query was counted as one program, glue and all: {answers}"


def _item_s(artifact: Artifact, graphs: Mapping[str, _EmulatedGraph]) -> float:
    """Seconds per query, by how often it is said to call each graph."""
    calls = (artifact.manifest["uses"] or {}).get("query", {})
    return sum(graph.row_s * calls.get(name, 0) for name, graph in graphs.items())


def _optimization(artifact: Artifact, name: str, settings: Mapping[str, Any]) -> Any:
    options = {**artifact.manifest["graphs"][name]["options"], **(settings.get("options") or {})}
    return options.get("optimization", "O2")


def _options(device: Device) -> dict[str, Any]:
    """The options of the device's emulator. Raises RequestError if it has none of this kind or an unknown option."""
    where = f"device {device.name}"
    if device.emulator is None or device.emulator.kind != "qemu_system":
        raise RequestError(
            f"{where}: has no emulator of kind qemu_system; give it emulator: {{kind: qemu_system, core: m4}}"
        )
    options = device.emulator.options
    if unknown := [name for name in options if name not in OPTIONS]:
        raise RequestError(f"{where}: unknown emulator option {unknown[0]!r}: there are {', '.join(OPTIONS)}")
    return options


def _board(device: Device) -> Board:
    options = _options(device)
    if "core" not in options:
        raise RequestError(f"device {device.name}: its emulator names no core: give one of {', '.join(BOARDS)}")
    board = board_of(options["core"])
    if options.get("machine", board.machine) != board.machine:
        raise RequestError(f"device {device.name}: the core {board.core} is on the board {board.machine}")
    return board


Runner = QemuSystemRunner
