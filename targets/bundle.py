"""Bundle: a student on disk. Opening one checks every byte; nothing in it is loaded through pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from profiles.storage import load_npz, sha256_file
from targets.graph import Graph
from targets.manifest import read_manifest, verify_files
from targets.target import GraphSource

FORMAT = 1
SPLITS = {"validation": "eval.npz", "test": "test.npz"}


def split_file(name: str) -> str:
    """The file that holds a split. Raises RequestError if there is no such split."""
    if name not in SPLITS:
        raise RequestError(f"unknown split {name!r}: there are {', '.join(SPLITS)}")
    return SPLITS[name]


def arrays_of(archive: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below `prefix/`, by the rest of their names."""
    return {key[len(prefix) + 1 :]: value for key, value in archive.items() if key.startswith(prefix + "/")}


@dataclass
class Bundle:
    """A student on disk: `Bundle.open(path)`.

    `graphs` by name; `uses` per use, e.g. {"query": {"encoder": 1}}; `settings` for the glue; `sha256` is that of
    bundle.json, which lists the SHA-256 of every other file.
    """

    path: Path
    manifest: dict[str, Any]
    sha256: str
    graphs: dict[str, Graph] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open and check. Raises RequestError naming the file that is missing or changed, or the other format."""
        path = Path(path)
        manifest = read_manifest(path, "bundle.json", FORMAT, "bundle")
        verify_files(path, manifest["files"], "bundle")
        bundle = cls(path, manifest, sha256_file(path / "bundle.json"))
        try:
            bundle.graphs = {name: Graph.from_json(value) for name, value in manifest["graphs"].items()}
            _ = bundle.student, bundle.task, bundle.glue, bundle.uses, bundle.settings, bundle.inputs
        except (KeyError, TypeError) as error:
            raise RequestError(f"{path / 'bundle.json'}: {error} is missing: make the bundle again") from None
        return bundle

    @property
    def student(self) -> str:
        return self.manifest["student"]

    @property
    def task(self) -> str:
        return self.manifest["task"]

    @property
    def glue(self) -> str:
        return self.manifest["glue"]

    @property
    def uses(self) -> dict[str, dict[str, float]]:
        return self.manifest["uses"]

    @property
    def settings(self) -> dict[str, Any]:
        return self.manifest["settings"]

    @property
    def inputs(self) -> str:
        """ "real", or "synthetic" if golden inputs are random because a model came without data."""
        return self.manifest["inputs"]

    @property
    def random_weights(self) -> bool:
        """True if nothing was learned: only cost may be reported."""
        return bool(self.manifest.get("random_weights"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return self.manifest.get("metrics", [])

    @property
    def lineage(self) -> dict[str, Any]:
        return self.manifest.get("lineage", {})

    @property
    def teacher(self) -> dict[str, Any] | None:
        return self.manifest.get("teacher")

    def teacher_value(self, split: str) -> float | None:
        """The teacher's value of the task metric on a split, if the writer gave it."""
        return self.manifest.get("teacher_values", {}).get(split)

    @property
    def assets(self) -> Path:
        return self.path / "assets"

    @cached_property
    def _golden(self) -> dict[str, np.ndarray]:
        return load_npz(self.path / "golden.npz")

    def golden(self, graph: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(inputs, float outputs) of a graph by name, each (n, ...)."""
        return arrays_of(self._golden, f"{graph}/inputs"), arrays_of(self._golden, f"{graph}/outputs")

    @cached_property
    def _calibration(self) -> dict[str, np.ndarray]:
        path = self.path / "calibration.npz"
        return load_npz(path) if path.exists() else {}

    def calibration(self, graph: str) -> dict[str, np.ndarray] | None:
        """Real inputs (n, ...) by name from which int8 ranges are taken; None if there are none."""
        return arrays_of(self._calibration, graph) or None

    def has_split(self, name: str) -> bool:
        return split_file(name) in self.manifest["files"]

    def split(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of the "validation" or "test" part. Raises RequestError if the bundle has none."""
        if not self.has_split(name):
            raise RequestError(f"{self.path}: has no {name} data: give --data with targets, or export the split")
        return load_npz(self.path / split_file(name))

    def program(self, graph: str) -> Path | None:
        """The exported program (.pt2) of a graph, if it has one."""
        relative = self.manifest["graphs"][graph].get("program")
        return self.path / relative if relative else None

    def source(self, graph: str) -> GraphSource:
        """What a target compiles. Raises RequestError if there is no such graph."""
        if graph not in self.graphs:
            raise RequestError(f"{self.path}: no graph {graph!r}: there are {', '.join(self.graphs)}")
        return GraphSource(
            graph=self.graphs[graph],
            onnx=self.path / self.manifest["graphs"][graph]["onnx"],
            program=self.program(graph),
            calibration=self.calibration(graph),
            golden=self.golden(graph)[0] or None,
        )
