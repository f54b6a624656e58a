"""Artifact: a student compiled for one device, runtime and precision. One directory, every file hashed.

artifact.json               what was asked for and what came out, per graph
graphs/GRAPH/...            the runtime's files
golden.npz eval.npz ...     the bundle's data, so that the artifact can be verified where it lands
assets/                     what the glue needs
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import RequestError
from profiles.results import STATUSES, Cost, Memory
from profiles.storage import atomic_directory, load_npz, sha256_file, sha256_tree, write_json
from targets import sandbox
from targets.bundle import Bundle, arrays_of, split_file
from targets.graph import Graph
from targets.manifest import place_file, read_manifest, verify_files
from targets.target import GraphError, Session, Target, get_target, not_runnable

if TYPE_CHECKING:
    from profiles.device import Device
    from targets.student import Student

FORMAT = 1
DATA = ("golden.npz", "eval.npz", "test.npz")
CARRIED = ("student", "task", "glue", "settings", "uses", "inputs", "random_weights", "has_metric", "teacher_values")
KEPT = (
    "precision",
    "float_operators",
    "quantization",
    "cost",
    "memory",
    "build",
)  # of a CompiledGraph, in the manifest
TOOLS = (
    "edge-compressor",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "openvino",
    "nncf",
    "numpy",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "ethos-u-vela",
)
TIMEOUT_S = 900.0


@dataclass
class Artifact:
    """A compiled student: `Artifact.open(path)`. `manifest` is artifact.json."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Open and check. Raises RequestError naming the file that is missing or changed, or the other format."""
        path = Path(path)
        manifest = read_manifest(path, "artifact.json", FORMAT, "artifact")
        verify_files(path, manifest["files"], "artifact")
        return cls(path, manifest)

    @property
    def student_name(self) -> str:
        return self.manifest["student"]

    @property
    def device(self) -> str:
        return self.manifest["device"]

    @property
    def runtime(self) -> str:
        return self.manifest["runtime"]

    @property
    def precision_requested(self) -> str:
        return self.manifest["precision_requested"]

    @property
    def status(self) -> str:
        """The worst of the graphs' states (see profiles.results.STATUSES)."""
        return self.manifest["status"]

    @property
    def reason(self) -> str | None:
        return self.manifest["reason"]

    @property
    def bytes(self) -> int:
        """The runtime's files of all graphs."""
        return sum(entry["bytes"] or 0 for entry in self.manifest["graphs"].values())

    @property
    def sha256(self) -> str:
        """Of the runtime's files of all graphs: of the listing of their hashes where there are several."""
        return self.manifest["sha256"]

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graphs, whether they could be compiled or not."""
        return {name: Graph.from_json(entry) for name, entry in self.manifest["graphs"].items()}

    def files(self, graph: str) -> tuple[Path, ...]:
        """The runtime's files of a graph, the one that a session opens first; empty if it could not be compiled."""
        return tuple(self.path / name for name in self.manifest["graphs"][graph]["files"])

    def cost(self, graph: str) -> Cost | None:
        """What the compiler counts or estimates of one inference of a graph; None if it says nothing."""
        found = self.manifest["graphs"][graph].get("cost")
        return Cost.model_validate(found) if found else None

    def memory(self, graph: str) -> Memory | None:
        """What the compiler knows of the memory of a graph; None if it says nothing."""
        found = self.manifest["graphs"][graph].get("memory")
        return Memory.model_validate(found) if found else None

    @cached_property
    def _golden(self) -> dict[str, np.ndarray]:
        return load_npz(self.path / "golden.npz")

    def golden(self, graph: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(inputs, float outputs) of a graph by name, each (n, ...)."""
        return arrays_of(self._golden, f"{graph}/inputs"), arrays_of(self._golden, f"{graph}/outputs")

    def first_row(self, graph: str) -> dict[str, np.ndarray]:
        """The first of a graph's golden inputs, each (1, ...)."""
        return {name: value[:1] for name, value in self.golden(graph)[0].items()}

    def has_split(self, name: str) -> bool:
        return split_file(name) in self.manifest["files"]

    def split(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of the "validation" or "test" part. Raises RequestError if there is none."""
        if not self.has_split(name):
            raise RequestError(f"{self.path}: has no {name} data: make the artifact from a bundle that has")
        return load_npz(self.path / split_file(name))

    def session(self, graph: str, options: Mapping[str, Any] | None = None) -> Session:
        """Open one graph; `options` replace those of the device profile. Raises RequestError if it was not compiled."""
        entry = self.manifest["graphs"][graph]
        if not entry["files"]:
            raise RequestError(f"{self.path}: graph {graph} was not compiled: {entry['reason']}")
        merged = {**entry["options"], **(options or {})}
        return get_target(self.runtime).open(self.graphs[graph], self.files(graph), entry["precision"], merged)

    def student(
        self, options: Mapping[str, Any] | None = None, sessions: Mapping[str, Session] | None = None
    ) -> Student:
        """All graphs (opened here unless `sessions` are given), joined by the task's glue."""
        from targets.student import Student

        if sessions is None:
            sessions = {name: self.session(name, options) for name in self.graphs}
        settings, assets = self.manifest["settings"], self.path / "assets"
        return Student(sessions, self.manifest["glue"], settings, assets, self.split)

    def record(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Write down what a measurement found: graph -> {"status", "reason", "parity", "ran_on"}."""
        for name, state in states.items():
            self.manifest["graphs"][name].update(state)
        _summarize(self.manifest)
        write_json(self.path / "artifact.json", self.manifest)


def compile_bundle(
    bundle: Bundle,
    device: Device,
    runtime: str,
    precision: str,
    out: str | Path,
    *,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int | None = None,
) -> Artifact:
    """Compile every graph of a bundle, each in the sandbox, and write the artifact (also if graphs failed).

    Raises RequestError if the device does not have the runtime, or int8 is asked for without calibration data; a graph
    that cannot be converted is no error but has the status "failed" or "unsupported", and a reason.
    """
    if runtime not in device.runtimes:
        raise RequestError(f"device {device.name} has no runtime {runtime!r}: it has {', '.join(device.runtimes)}")
    target = get_target(runtime)
    runtime_version = target.version()  # MissingError names the extra before anything is written
    missing = [name for name in bundle.graphs if precision == "int8" and not bundle.calibration(name)]
    if missing:
        raise RequestError(f"int8 needs --data: {bundle.path} has no real inputs of {missing[0]} to take ranges from")
    options = dict(device.runtimes[runtime].options)
    with atomic_directory(out) as root:
        manifest: dict[str, Any] = {
            "format": FORMAT,
            **{key: bundle.manifest.get(key) for key in CARRIED},
            "bundle": {"sha256": bundle.sha256, "recipe_hash": bundle.manifest.get("recipe_hash")},
            "device": device.name,
            "runtime": runtime,
            "runtime_version": runtime_version,
            "precision_requested": precision,
            "options": options,
            "tools": tool_versions(),
            "graphs": {},
        }
        for name, graph in bundle.graphs.items():
            entry = _compile_one(bundle, name, runtime, precision, options, root, timeout_s, memory_bytes)
            manifest["graphs"][name] = {**graph.to_json(), **entry}
        for name in DATA:
            if (bundle.path / name).exists():
                place_file(bundle.path / name, root / name)
        for source in bundle.assets.rglob("*"):
            if source.is_file():
                place_file(source, root / "assets" / source.relative_to(bundle.assets))
        (root / "assets").mkdir(exist_ok=True)
        manifest["files"] = sha256_tree(root)
        _summarize(manifest)
        write_json(root / "artifact.json", manifest)
    return Artifact.open(out)


def _compile_one(
    bundle: Bundle,
    name: str,
    runtime: str,
    precision: str,
    options: dict[str, Any],
    root: Path,
    timeout_s: float,
    memory_bytes: int | None,
) -> dict[str, Any]:
    """The manifest's entry of one graph."""
    target = get_target(runtime)
    entry: dict[str, Any] = {
        "status": "built", "reason": None, "files": [], "precision": None, "float_operators": {}, "quantization": {},
        "notes": [], "options": options, "bytes": None, "sha256": None, "compile_seconds": None, "parity": None,
        "ran_on": None, "cost": None, "memory": None, "build": {},
    }  # fmt: skip
    reason = target.unsupported(bundle.source(name), precision)
    if reason is not None:
        return {**entry, "status": "unsupported", "reason": reason}
    folder = root / "graphs" / name
    folder.mkdir(parents=True)
    arguments = {
        "bundle": str(bundle.path), "graph": name, "runtime": runtime, "precision": precision, "options": options,
        "out": str(folder),
    }  # fmt: skip
    label = f"compiling {name} with {runtime} in {precision}"
    try:
        result = sandbox.call(
            "targets.artifact:compile_graph", arguments, doing=label, timeout_s=timeout_s, memory_bytes=memory_bytes
        )
        compiled, opened = result.value, {"options": options, "notes": []}
        if "failure" in compiled:
            shutil.rmtree(folder)
            return {**entry, "status": "failed", "reason": compiled["failure"]}
        status, reason = _state(target, compiled)
        if status == "built" and reason is None:
            opened = _try_open(target, arguments, compiled, timeout_s, memory_bytes)
    except sandbox.SandboxError as error:
        shutil.rmtree(folder)
        return {**entry, "status": "failed", "reason": error.reason, "detail": error.detail}
    files = [f"graphs/{name}/{file}" for file in compiled["files"]]
    return {
        **entry,
        **{key: compiled[key] for key in KEPT},
        "status": status,
        "reason": reason,
        "files": files,
        "notes": [*compiled["notes"], *opened["notes"]],
        "options": opened["options"],
        "bytes": sum((root / file).stat().st_size for file in files) if files else None,
        "sha256": _digest({file: sha256_file(root / file) for file in files}) if files else None,
        "compile_seconds": round(result.seconds, 3),
    }


def _state(target: Target, compiled: Mapping[str, Any]) -> tuple[str, str | None]:
    """Status and reason of a compiled graph before it is opened; ("built", None) if it can be opened here."""
    if compiled["problem"]:
        return "rejected" if compiled["files"] else "unsupported", compiled["problem"]
    if compiled["deferred"]:
        return "deferred", compiled["deferred"]
    reason = not_runnable(target)
    if reason and compiled["on_device"]:
        reason = f"{reason}: {compiled['on_device']}"
    return "built", reason


def _try_open(
    target: Any, arguments: dict[str, Any], compiled: dict[str, Any], timeout_s: float, memory_bytes: int | None
) -> dict[str, Any]:
    """Open and run the files once; where that crashes, once more with the runtime's cautious options.

    Gives {"options", "notes"}. Raises SandboxError if it does not run either way.
    """
    options, notes = arguments["options"], []
    cautious = {**options, **getattr(target, "cautious_options", {})}
    keywords = {**arguments, "files": compiled["files"], "precision": compiled["precision"]}
    label = f"opening {arguments['graph']} with {target.name} in {arguments['precision']}"
    try:
        sandbox.call(
            "targets.artifact:open_graph", keywords, doing=label, timeout_s=timeout_s, memory_bytes=memory_bytes
        )
    except sandbox.SandboxError as error:
        if error.signal_number is None or cautious == options:
            raise
        notes.append(f"{error.reason}; opened with {cautious} instead")
        options = cautious
        sandbox.call(
            "targets.artifact:open_graph", {**keywords, "options": options}, doing=label, timeout_s=timeout_s,
            memory_bytes=memory_bytes,
        )  # fmt: skip
    return {"options": options, "notes": notes}


def compile_graph(
    bundle: str, graph: str, runtime: str, precision: str, options: dict[str, Any], out: str
) -> dict[str, Any]:
    """Compile one graph into `out`; runs in the sandbox.

    Gives targets.target.CompiledGraph as JSON, or {"failure": reason} if the graph cannot be had on this runtime.
    """
    try:
        compiled = get_target(runtime).compile(Bundle.open(bundle).source(graph), Path(out), precision, options)
    except GraphError as error:
        return {"failure": str(error)}
    return asdict(compiled)


def open_graph(
    bundle: str, graph: str, runtime: str, precision: str, options: dict[str, Any], out: str, files: list[str]
) -> dict[str, Any]:
    """Open a compiled graph and run its first golden input; runs in the sandbox. Gives the session's details."""
    opened = Bundle.open(bundle)
    paths = tuple(Path(out) / file for file in files)
    session = get_target(runtime).open(opened.graphs[graph], paths, precision, options)
    inputs, _ = opened.golden(graph)
    session({name: value[:1] for name, value in inputs.items()})
    return dict(session.details)


def tool_versions() -> dict[str, str]:
    """Versions of the packages that took part in a compilation, as far as they are installed."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def worst(states: Iterable[str]) -> str:
    """The worst of some states."""
    return max(states, key=STATUSES.index)


def _summarize(manifest: dict[str, Any]) -> None:
    """Status, reason and hash of the whole from those of the graphs."""
    entries = manifest["graphs"]
    manifest["status"] = worst(entry["status"] for entry in entries.values())
    manifest["reason"] = next(
        (f"{n}: {e['reason']}" for n, e in entries.items() if e["status"] == manifest["status"] and e["reason"]), None
    )
    manifest["sha256"] = _digest({name: entry["sha256"] for name, entry in entries.items() if entry["sha256"]})


def _digest(hashes: Mapping[str, str]) -> str:
    """The hash of a single file, or of the sorted listing of several."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{value}  {name}\n" for name, value in sorted(hashes.items())).encode()).hexdigest()
