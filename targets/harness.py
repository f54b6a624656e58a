"""Measure an artifact: parity, latency, calls per query, task metric, examples, memory. numpy and one runtime only.

`measure` runs in a fresh process on the machine that counts: here in the sandbox, elsewhere through a runner. It gives
JSON and arrays; `targets.measurement.Measurement` reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.latency import measure as measure_latency
from profiles.memory import peak_resident_bytes
from targets.artifact import Artifact
from targets.graph import Arrays
from targets.parity import compare, failure
from targets.student import Student
from targets.target import Session

Json = dict[str, Any]
SINGLE_ROWS = 8
STREAMED = 30  # queries whose timing is asked of the glue


def measure(
    artifact: str | Path,
    *,
    splits: Sequence[str] = ("validation", "test"),
    limit: int | None = None,
    latency: bool = True,
    latency_seconds: float = 2.0,
    min_samples: int = 50,
    examples: int = 0,
    options: Mapping[str, Any] | None = None,
    sessions: Mapping[str, Session] | None = None,
) -> tuple[Json, dict[str, np.ndarray]]:
    """Everything that is known of an artifact on this machine. Graphs that were not compiled are left out.

    Args:
        splits: of which the metric is computed, as far as the artifact has them. limit: items per split.
        latency: False where this machine is not the device. latency_seconds: at most, per graph and for the queries.
        examples: how many, from the last of the splits. options: replace the device profile's (e.g. {"threads": 1}).
        sessions: of every compiled graph, where they do not run in this process; opened here if not given.
    Returns JSON {"graphs", "query", "metrics", "examples", "peak_bytes"} and arrays "latency_ms/GRAPH" ("*" for the
    query), "scores/SPLIT", "weights/SPLIT", "examples/...".
    """
    opened = Artifact.open(artifact)
    if sessions is None:
        sessions = {name: opened.session(name, options) for name in opened.graphs if opened.files(name)}
    arrays: dict[str, np.ndarray] = {}
    for name, session in sessions.items():
        session(opened.first_row(name))
    report: Json = {"peak_bytes": peak_resident_bytes(), "graphs": {}, "query": None, "metrics": {}, "examples": []}
    for name, session in sessions.items():
        report["graphs"][name] = _check_graph(opened, name, session)
        if latency:
            report["graphs"][name].update(_time_graph(opened, name, session, latency_seconds, min_samples, arrays))
    if len(sessions) < len(opened.graphs):  # a graph is missing: there is no student to ask
        return report, arrays
    student = opened.student(options, sessions)
    available = [split for split in splits if opened.has_split(split)]
    if available:
        report["query"] = _time_queries(opened, student, available[0], limit, latency, latency_seconds, arrays)
    for split in available if opened.manifest["has_metric"] else ():
        report["metrics"][split] = _evaluate(opened, student, split, limit, arrays)
    if examples and available:
        report["examples"] = _examples(student, opened.split(available[-1]), examples, arrays)
    return report, arrays


def peak_memory(artifact: str | Path, graph: str, options: Mapping[str, Any] | None = None) -> int:
    """Peak resident bytes of a process that opens one graph of an artifact and runs it once."""
    opened = Artifact.open(artifact)
    opened.session(graph, options)(opened.first_row(graph))
    return peak_resident_bytes()


def _check_graph(artifact: Artifact, name: str, session: Session) -> Json:
    """Parity of one graph on the golden inputs, and why it fails.

    The first rows go through one by one, as a device would ask, and the rest together: runtimes may have different
    kernels for the two.
    """
    inputs, reference = artifact.golden(name)
    count = len(next(iter(inputs.values())))
    pieces = [slice(i, i + 1) for i in range(min(SINGLE_ROWS, count))]
    if count > SINGLE_ROWS:
        pieces.append(slice(SINGLE_ROWS, count))
    parts = [session({key: value[piece] for key, value in inputs.items()}) for piece in pieces]
    outputs = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    parity = compare(reference, outputs)
    precision = artifact.manifest["graphs"][name]["precision"]
    return {
        "parity": parity.to_json(),
        "failure": failure(parity, precision),
        "details": dict(session.details),
        "latency": None,
        "conditions": None,
    }


def _time_graph(
    artifact: Artifact,
    name: str,
    session: Session,
    seconds: float,
    min_samples: int,
    arrays: dict[str, np.ndarray],
) -> Json:
    feeds = artifact.first_row(name)
    timing = measure_latency(
        lambda: session(feeds),
        max_seconds=seconds,
        min_samples=min_samples,
        threads=session.details["threads"],
    )
    arrays[f"latency_ms/{name}"] = timing.samples_ms
    return {
        "latency": timing.latency.model_dump(mode="json"),
        "conditions": {**timing.conditions.to_json(), "note": timing.conditions.note},
    }


def _time_queries(
    artifact: Artifact,
    student: Student,
    split: str,
    limit: int | None,
    latency: bool,
    seconds: float,
    arrays: dict[str, np.ndarray],
) -> Json:
    """Calls per query over the split's queries, and the latency of answering them one by one, glue included."""
    queries = list(itertools.islice(student.glue.queries(artifact.split(split)), limit))
    if not queries:
        return {"n": 0, "split": split, "calls": {}, "latency": None, "conditions": None}
    student.calls.clear()
    for query in queries:
        student(query)
    calls = {name: student.calls[name] / len(queries) for name in student.sessions}
    found: Json = {"n": len(queries), "split": split, "calls": calls, "latency": None, "conditions": None}
    if latency:
        cycle = itertools.cycle(queries)
        threads = max(session.details["threads"] for session in student.sessions.values())
        timing = measure_latency(
            lambda: student(next(cycle)), max_seconds=seconds, min_samples=max(50, len(queries)), threads=threads
        )
        arrays["latency_ms/*"] = timing.samples_ms
        found["latency"] = timing.latency.model_dump(mode="json")
        found["conditions"] = {**timing.conditions.to_json(), "note": timing.conditions.note}
        found["timings"] = _timings(student, queries[:STREAMED])
    return found


def _timings(student: Student, queries: Sequence[Any]) -> Json:
    """The median of what the glue's clock says of each query, by name; empty where it has none."""
    ask = getattr(student.glue, "timings", None)
    rows = [ask(query) for query in queries] if ask else []
    return {name: float(np.median([row[name] for row in rows])) for name in (rows[0] if rows else ())}


def _evaluate(
    artifact: Artifact, student: Student, split: str, limit: int | None, arrays: dict[str, np.ndarray]
) -> Json:
    evaluation = student.evaluate(split, limit)
    arrays[f"scores/{split}"] = np.asarray(evaluation.scores, np.float64)
    if evaluation.weights is not None:
        arrays[f"weights/{split}"] = np.asarray(evaluation.weights, np.float64)
    return {
        "name": evaluation.name,
        "value": evaluation.value,
        "n": len(evaluation.scores),
        "higher_is_better": evaluation.higher_is_better,
        "extras": dict(evaluation.extras),
    }


def _examples(student: Student, data: Arrays, count: int, arrays: dict[str, np.ndarray]) -> list[Json]:
    """Examples as JSON; pictures and sounds go into `arrays` and are named in the JSON."""
    found = []
    for i, example in enumerate(student.glue.examples(data, count)):
        pictures = {f"examples/{i}/query": example.query}
        pictures.update({f"examples/{i}/{j}": answer.image for j, answer in enumerate(example.answers)})
        arrays.update({key: np.asarray(image, np.uint8) for key, image in pictures.items() if image is not None})
        sound = f"examples/{i}/sound" if example.sound is not None else None
        if sound is not None:
            arrays[sound] = np.asarray(example.sound, np.int16)
        found.append(
            {
                "title": example.title,
                "query": f"examples/{i}/query" if example.query is not None else None,
                "sound": sound,
                "remark": example.remark,
                "answers": [
                    {
                        "image": f"examples/{i}/{j}" if answer.image is not None else None,
                        "label": answer.label,
                        "correct": bool(answer.correct),
                    }
                    for j, answer in enumerate(example.answers)
                ],
            }
        )
    return found
