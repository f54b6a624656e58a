"""Measure an artifact over there: the harness here, its sessions on the device.

The glue runs on this machine and every graph on the device, so parity, the task metric and the calls per query are
those of the device's arithmetic. What the device itself measures: the time of each call, and memory. What an emulator
counts: instructions. Runs in the sandbox.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from profiles.device import Device
from profiles.errors import RequestError
from profiles.latency import summarize
from targets import harness
from targets.artifact import Artifact
from targets.c.program import Program, build
from targets.firmware.rows import encode
from targets.graph import Arrays
from targets.remote.channel import Channel
from targets.remote.code import CODE, write_code
from targets.remote.limits import EVALUATION_SHARE, evaluation_limit, passes
from targets.remote.place import ShellPlace
from targets.remote.reference import against_this_machine
from targets.remote.sessions import Agent, AgentSession, ProgramSession
from targets.remote.traps import check_processor

if TYPE_CHECKING:
    from targets.remote.runner import RemoteRunner

PROGRAM_RUNTIME = "c"
ANSWER_S = 120.0  # the longest that one answer may take: some ten thousand million instructions under emulation
SAMPLES = (5, 200_000)  # fewest and most calls that are timed of a static program


class GraphThere(Protocol):
    """An open graph on the device."""

    session: Any

    def time(self, feeds: Arrays, seconds: float, min_samples: int) -> tuple[np.ndarray, int]:
        """(milliseconds of each call, calls of the warm-up)."""
        ...

    def findings(self) -> dict[str, Any]:
        """Cost, memory and notes for the report, once nothing more is asked."""
        ...


def measure_there(
    runner: str,
    address: str | None,
    device: dict[str, Any],
    artifact: str,
    timeout_s: float,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `targets.harness.measure` gives, with cost, memory and notes of every graph, and "machine".

    Raises DeviceError, in one line, for whatever the device does wrong or too slowly.
    """
    from targets.runners import get_runner

    deadline = time.monotonic() + timeout_s
    profile, opened = Device.model_validate(device), Artifact.open(artifact)
    found: Any = get_runner(runner if address is None else f"{runner}:{address}")
    with found.place(profile) as place, ExitStack() as stack:
        machine, graphs = _open_graphs(found, profile, place, opened, settings, stack)
        return _measure(opened, graphs, machine, profile, settings, deadline)


def _measure(
    opened: Artifact,
    graphs: Mapping[str, GraphThere],
    machine: Mapping[str, Any],
    device: Device,
    settings: Mapping[str, Any],
    deadline: float,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    sessions = {name: graph.session for name, graph in graphs.items()}
    item_s, golden_s = _times(opened, graphs)
    left_s = EVALUATION_SHARE * (deadline - time.monotonic() - golden_s)
    limit, note = evaluation_limit(passes(opened, sessions, settings), item_s, left_s, settings.get("limit"))
    wanted = settings.get("latency")
    is_device = device.is_machine(machine["machine"], machine["cpu"])
    timing = machine["real"] and (is_device if wanted is None else wanted)
    local = {key: value for key, value in settings.items() if key != "latency"}
    report, arrays = harness.measure(opened.path, **{**local, "limit": limit, "latency": False}, sessions=sessions)
    report["peak_bytes"], report["machine"] = None, {**machine, "is_device": is_device}
    for name, graph in graphs.items():
        entry = report["graphs"][name]
        if timing:
            seconds, fewest = settings.get("latency_seconds", 2.0), settings.get("min_samples", 50)
            samples, warmup = graph.time(opened.first_row(name), seconds, fewest)
            arrays[f"latency_ms/{name}"] = samples
            threads = entry["details"]["threads"]
            entry["latency"] = summarize(samples, threads=threads, warmup=warmup).model_dump(mode="json")
        compared, problem = against_this_machine(opened, name, graph.session)
        entry["this_machine"], entry["failure"] = compared, entry["failure"] or problem
        findings = graph.findings()
        findings["notes"] = [text for text in (*findings["notes"], compared["note"], note) if text]
        entry.update(findings)
    return report, arrays


def _times(artifact: Artifact, graphs: Mapping[str, GraphThere]) -> tuple[float, float]:
    """Seconds of this machine for a query, and for the golden inputs (which are run twice), from one row of each."""
    calls = (artifact.manifest["uses"] or {}).get("query", {})
    item_s = golden_s = 0.0
    for name, graph in graphs.items():
        start = time.monotonic()
        graph.session(artifact.first_row(name))
        row_s = time.monotonic() - start
        item_s += row_s * calls.get(name, 0)
        golden_s += 2 * row_s * len(next(iter(artifact.golden(name)[0].values())))
    return item_s, golden_s


# -- through the agent -----------------------------------------------------------------------------------------------


@dataclass
class _AgentGraph:
    session: AgentSession
    agent: Agent
    opened: Mapping[str, Any]  # what the agent said when it opened the graph
    peak_bytes: int
    cost: tuple[float | None, str | None]

    def time(self, feeds: Arrays, seconds: float, min_samples: int) -> tuple[np.ndarray, int]:
        value, arrays = self.agent.call(
            "time", feeds, graph=self.session.graph.name, seconds=seconds, min_samples=min_samples,
            timeout_s=ANSWER_S + 10 * seconds,
        )  # fmt: skip
        return arrays["samples_ms"], int(value["warmup"])

    def findings(self) -> dict[str, Any]:
        counted, note = self.cost
        cost = {"kind": "instructions", "value": counted, "source": "counted"} if counted is not None else None
        memory = {"arena": self.opened["heap_bytes"]} if self.opened["heap_bytes"] else {}
        return {"cost": cost, "memory": memory, "notes": [note], "peak_bytes": self.peak_bytes}


def _open_graphs(
    runner: RemoteRunner,
    device: Device,
    place: ShellPlace,
    artifact: Artifact,
    settings: Mapping[str, Any],
    stack: ExitStack,
) -> tuple[dict[str, Any], dict[str, GraphThere]]:
    """What the machine is, and every compiled graph, open on it."""
    names = [name for name in artifact.graphs if artifact.files(name)]
    if artifact.runtime == PROGRAM_RUNTIME:
        machine = {**place.info(), "real": runner.is_real}
        programs = {name: _program(runner, device, place, artifact, name, machine, stack) for name in names}
        return machine, dict(programs)
    python = runner.python(device, place)
    if python is None:
        raise RequestError(
            f"{artifact.path}: {place.name} has no Python to run {artifact.runtime} with: what runs there is a static "
            f"program of our C (--runtime {PROGRAM_RUNTIME} --precision int8)"
        )
    place.push(write_code(Path(stack.enter_context(_folder()))), CODE)
    machine = {}
    graphs: dict[str, GraphThere] = {}
    for name in names:  # one process each: then the peak of memory is the graph's
        place.push(artifact.files(name)[0].parent, f"graphs/{name}")
        channel = place.start(
            [*python, "-m", "targets.remote.agent"], doing=f"running {name} with {artifact.runtime}", timeout_s=ANSWER_S
        )
        agent = Agent(stack.enter_context(channel))
        machine = {**agent.call("hello")[0], "real": runner.is_real}
        check_processor(machine, place.name)
        request = open_request(artifact, name, settings)
        opened, _ = agent.call("open", artifact.first_row(name), **request)
        peak, _ = agent.call("peak")
        cost = runner.count_agent(device, place, {**request, "do": "open"}, artifact.first_row(name))
        session = AgentSession(artifact.graphs[name], agent, opened["details"])
        graphs[name] = _AgentGraph(session, agent, opened, int(peak), cost)
    return {key: value for key, value in machine.items() if key not in ("cpuinfo", "hwcap")}, graphs


def open_request(artifact: Artifact, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The request `open` of targets.remote.agent for one graph whose files lie in graphs/NAME."""
    entry, first = artifact.manifest["graphs"][name], artifact.files(name)[0].parent
    return {
        "graph": artifact.graphs[name].to_json(),
        "runtime": artifact.runtime,
        "precision": entry["precision"],
        "files": [f"graphs/{name}/{file.relative_to(first)}" for file in artifact.files(name)],
        "options": {**entry["options"], **(settings.get("options") or {})},
    }


# -- as a static program ---------------------------------------------------------------------------------------------


@dataclass
class _ProgramGraph:
    session: ProgramSession
    program: Program
    place: ShellPlace
    command: list[str]
    row: bytes
    cost: tuple[float | None, str | None]

    def time(self, feeds: Arrays, seconds: float, min_samples: int) -> tuple[np.ndarray, int]:
        first = self._samples(SAMPLES[0], seconds)
        per_call_ms = max(float(np.median(first)), 1e-6)
        count = int(np.clip(1000 * seconds / per_call_ms, *SAMPLES))  # as in profiles.latency: the time goes first
        return self._samples(count, seconds), len(first)

    def findings(self) -> dict[str, Any]:
        self.session.close()
        counted, note = self.cost
        cost = {"kind": "instructions", "value": counted, "source": "counted"} if counted is not None else None
        memory = {
            "arena": self.program.arena_bytes,
            "flash": self.program.flash_bytes,
            "ram": self.program.ram_bytes,
            "stack": self.session.stack_bytes,
        }
        return {"cost": cost, "memory": memory, "notes": [note], "peak_bytes": self.session.peak_bytes}

    def _samples(self, count: int, seconds: float) -> np.ndarray:
        done = self.place.run(
            [*self.command, "time", str(count)], doing="timing", timeout_s=ANSWER_S + 10 * seconds, stdin=self.row
        )
        return np.frombuffer(done.stdout, np.uint64).astype(np.float64) / 1e6


def _program(
    runner: RemoteRunner,
    device: Device,
    place: ShellPlace,
    artifact: Artifact,
    name: str,
    machine: Mapping[str, Any],
    stack: ExitStack,
) -> _ProgramGraph:
    folder, graph = artifact.files(name)[0].parent, artifact.graphs[name]
    optimization = artifact.manifest["graphs"][name]["options"].get("optimization", "O2")
    built = build(folder, machine["machine"], optimization, Path(stack.enter_context(_folder())) / "program")
    place.push(built.path, f"program_{name}")
    command = [*runner.emulator(device, place), f"./program_{name}"]
    rows = encode(graph, built.manifest, artifact.golden(name)[0])
    cost = runner.count_program(device, place, built, f"./program_{name}", rows)
    channel: Channel = stack.enter_context(place.start(command, doing=f"running {name}", timeout_s=ANSWER_S))
    details = {"runtime": PROGRAM_RUNTIME, "provider": f"static program for {built.machine}", "threads": 1}
    session = ProgramSession(graph, channel, built.manifest, details)
    return _ProgramGraph(session, built, place, command, rows[0], cost)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="compressor-")
