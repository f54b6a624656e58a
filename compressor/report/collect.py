"""Writes details.json: what the report shows beyond results.json (schema: compressor/report/details.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.report.details import Teacher
from profiles.device import Device
from profiles.results import Record
from profiles.storage import write_json
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from compressor.policy import Choice
    from compressor.records import Subject
    from targets.artifact import Artifact
    from targets.measurement import Measurement

MAX_SAMPLES = 500  # latency samples per artifact that the page keeps; more are thinned evenly
EXAMPLE_PRECISIONS = ("int8", "fp16", "fp32")  # whose answers are shown: the cheapest that is verified


class DetailsWriter:
    """Collects while the matrix is measured; `write` at the end."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._examples_rank: dict[str, int] = {}
        self.details: dict[str, Any] = {
            "schema": 1, "layers": {}, "latency_samples_ms": {}, "teachers": {}, "examples": {}, "examples_from": {},
            "credits": [], "training": {}, "devices": {device.name: device.summary for device in devices}, "notes": {},
            "extra_metrics": {}, "timings": {}, "against_float": {}, "macs": {}, "charts": {}, "choices": [],
            "remarks": [],
        }  # fmt: skip

    def add_subject(self, subject: Subject) -> list[str]:
        """Layers, teacher, credits and training curves of a student. Returns what must be said about its numbers."""
        bundle, name = subject.bundle, subject.bundle.student
        self.details["layers"][name] = {
            graph: [_layer(layer) for layer in costs.layers] for graph, costs in subject.costs.items()
        }
        if subject.glue_macs:
            self.details["macs"][name] = subject.query_macs(bundle.uses["query"])
        if charts := [*map(asdict, subject.charts), *bundle.lineage.get("charts", [])]:
            self.details["charts"][name] = charts
        if bundle.teacher:
            shown = Teacher.model_fields  # a bundle may say more, e.g. the MACs of each tower
            self.details["teachers"][name] = {key: value for key, value in bundle.teacher.items() if key in shown}
        for credit in bundle.lineage.get("credits", []):
            if credit not in self.details["credits"]:
                self.details["credits"].append(credit)
        curves = bundle.path.parent / "metrics.jsonl"
        if bundle.manifest.get("recipe") and curves.is_file():
            lines = curves.read_text(encoding="utf-8").splitlines()
            self.details["training"][name] = [json.loads(line) for line in lines]
        remarks = []
        if bundle.random_weights:
            reason = bundle.lineage.get("random_weights")
            remarks.append(f"{name}: the weights are random ({reason}); only cost means anything.")
        if bundle.inputs == "synthetic":
            remarks.append(f"{name}: came without data; parity is checked on random inputs.")
        remarks += [f"{name}: {text}." for text in bundle.lineage.get("remarks", [])]
        self.details["remarks"] += remarks
        return remarks

    def add_artifact(
        self, subject: Subject, rows: list[Record], artifact: Artifact, found: Measurement | None, split: str
    ) -> None:
        """Latency samples, notes, further metrics, the paired difference to float, and pictures of one artifact."""
        from compressor.records import against_float
        from compressor.report.details import record_key

        for record in rows:
            key = record_key(record)
            graphs = artifact.manifest["graphs"]
            entries = graphs.values() if record.graph == "*" else [graphs[record.graph]]
            notes = [note for entry in entries for note in [*entry["notes"], *_excluded(entry)]]
            if found is None:
                self._note(key, notes)
                continue
            samples = found.samples_ms(record.graph)
            if samples is not None:
                self.details["latency_samples_ms"][key] = _thinned(samples)
            measured = found.report["query"] if record.graph == "*" else found.report["graphs"][record.graph]
            conditions = (measured or {}).get("conditions")
            self._note(key, [*notes, *([conditions["note"]] if conditions and conditions["note"] else [])])
        if found is None:
            return
        if paired := against_float(subject, found, split):
            self.details["against_float"][record_key(rows[-1])] = {**paired[0]._asdict(), "n": paired[1]}
        self._add_answers(rows[-1], record_key(rows[-1]), found, split)

    def add_choices(self, choices: Sequence[Choice]) -> None:
        """What the precision policy keeps."""
        self.details["choices"] += [asdict(choice) for choice in choices]

    def _note(self, key: str, notes: list[str]) -> None:
        if notes:
            self.details["notes"][key] = list(dict.fromkeys(notes))

    def _add_answers(self, whole: Record, key: str, found: Measurement, split: str) -> None:
        evaluation = found.evaluation(split)
        if evaluation is not None and evaluation.extras:
            self.details["extra_metrics"][key] = dict(evaluation.extras)
        if found.timings:
            self.details["timings"][key] = found.timings
        if whole.status != "verified" or not found.examples:
            return
        rank = EXAMPLE_PRECISIONS.index(whole.precision_requested)
        if rank < self._examples_rank.get(whole.student, len(EXAMPLE_PRECISIONS)):
            self._examples_rank[whole.student] = rank
            self.details["examples"][whole.student] = [_example(example) for example in found.examples]
            self.details["examples_from"][whole.student] = (
                f"{whole.runtime} {whole.precision_requested} on {whole.device}"
            )

    def write(self, path: Path) -> None:
        write_json(path, self.details)


def _excluded(entry: dict[str, Any]) -> list[str]:
    """Which layers the search for those that int8 hurts has left in float."""
    layers = (entry["quantization"] or {}).get("excluded_layers")
    return [f"int8 hurts these layers, they stay float: {', '.join(layers)}"] if layers else []


def _layer(layer: Any) -> dict[str, Any]:
    fields = ("name", "op", "macs", "parameters", "activation_bytes", "output_shape")
    return {key: value for key, value in asdict(layer).items() if key in fields}


def _thinned(samples: np.ndarray) -> list[float]:
    chosen = evenly_spread(len(samples), MAX_SAMPLES)
    return [round(float(value), 6) for value in samples[chosen]]


def _example(example: Any) -> dict[str, Any]:
    from compressor.report.pictures import encode_png, encode_wav

    def picture(image: np.ndarray | None) -> str | None:
        return encode_png(image) if image is not None else None

    answers = [{"label": a.label, "correct": a.correct, "png": picture(a.image)} for a in example.answers]
    sound = encode_wav(example.sound) if example.sound is not None else None
    asked = {"title": example.title, "query_png": picture(example.query), "query_wav": sound, "remark": example.remark}
    return {**asked, "answers": answers}
