"""Student: a bundle's or an artifact's graphs, opened as sessions and joined by the task's glue."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from targets.bundle import Bundle
from targets.glue import Evaluation, resolve_glue
from targets.graph import Arrays
from targets.session import open_program
from targets.target import Session, get_target


class CountedGraph:
    """A session whose calls are counted, in items (the length of the leading axis)."""

    def __init__(self, name: str, session: Session, calls: Counter[str]) -> None:
        self.name, self.session, self._calls = name, session, calls

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        self._calls[self.name] += len(next(iter(feeds.values())))
        return self.session(feeds)


class Student:
    """`student(raw_input) -> answer`, the same glue on PyTorch, on each runtime and on each device.

    `calls` counts, per graph, how many items it was given since the last `calls.clear()`.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        glue: str,
        settings: Mapping[str, Any],
        assets: Path,
        split: Callable[[str], dict[str, np.ndarray]],
    ) -> None:
        self.sessions = dict(sessions)
        self.calls: Counter[str] = Counter()
        self._split = split
        graphs = {name: CountedGraph(name, session, self.calls) for name, session in sessions.items()}
        self.glue = resolve_glue(glue)(graphs, settings, assets)  # type: ignore[call-arg]

    def __call__(self, query: Any) -> Any:
        """Answer one raw query."""
        return self.glue(query)

    def evaluate(self, split: str | Arrays = "validation", limit: int | None = None) -> Evaluation:
        """The task's metric on a split of the bundle ("validation", "test"), or on arrays of the same form."""
        return self.glue.evaluate(self._split(split) if isinstance(split, str) else split, limit)


def load(path: str | Path, runtime: str | None = None) -> Student:
    """Open a bundle (on PyTorch, or on `runtime` in fp32) or an artifact (on its own runtime) as a Student.

    Raises RequestError if the path is neither, if a file was changed, or if an artifact is asked for another runtime.
    """
    path = Path(path)
    if (path / "artifact.json").exists():
        from targets.artifact import Artifact

        artifact = Artifact.open(path)
        if runtime not in (None, artifact.runtime):
            raise RequestError(f"{path}: compiled for {artifact.runtime}, not for {runtime}: open the bundle instead")
        return artifact.student()
    if not (path / "bundle.json").exists():
        raise RequestError(f"{path}: neither a bundle nor an artifact (no bundle.json or artifact.json in it)")
    bundle = Bundle.open(path)
    sessions = {name: _open_graph(bundle, name, runtime) for name in bundle.graphs}
    return Student(sessions, bundle.glue, bundle.settings, bundle.assets, bundle.split)


def _open_graph(bundle: Bundle, name: str, runtime: str | None) -> Session:
    program = bundle.program(name)
    if runtime is None and program is not None:
        return open_program(bundle.graphs[name], program)
    target = get_target(runtime or "onnx")  # a user's .onnx has no program: its own runtime is the reference
    with tempfile.TemporaryDirectory() as folder:
        compiled = target.compile(bundle.source(name), Path(folder), "fp32", {})
        files = tuple(Path(folder) / file for file in compiled.files)
        return target.open(bundle.graphs[name], files, "fp32", {})
