"""What the harness found, as the records of results.json want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles import results
from targets.glue import Answer, Evaluation, Example


@dataclass(frozen=True)
class Measurement:
    """The JSON and arrays of `targets.harness.measure`, the resident memory per graph, and where it ran.

    `graph_peak_bytes`: peak resident memory of a fresh process per graph. `inputs`: "real" or "synthetic"."""

    report: dict[str, Any]
    arrays: dict[str, np.ndarray]
    graph_peak_bytes: dict[str, int]
    ran_on: results.RanOn
    inputs: str

    def failure(self, graph: str) -> str | None:
        """Why the graph's outputs do not pass at its precision; None if they do."""
        return self.report["graphs"][graph]["failure"]

    def parity(self, graph: str) -> results.Parity:
        found = self.report["graphs"][graph]["parity"]
        numbers = {key: found[key] for key in ("max_abs", "cosine_min", "sqnr_db", "agreement", "n")}
        return results.Parity(**numbers, inputs=self.inputs)  # type: ignore[arg-type]

    def latency(self, graph: str = "*") -> results.Latency | None:
        """Of one graph (batch 1), or of a whole query ("*")."""
        found = self.report["query"] if graph == "*" else self.report["graphs"][graph]
        return results.Latency.model_validate(found["latency"]) if found and found["latency"] else None

    def samples_ms(self, graph: str = "*") -> np.ndarray | None:
        return self.arrays.get(f"latency_ms/{graph}")

    @property
    def calls(self) -> dict[str, float]:
        """Items that each graph is given per query, the mean over the queries; empty if there were none."""
        return self.report["query"]["calls"] if self.report["query"] else {}

    @property
    def peak_bytes(self) -> int:
        """Peak resident memory of a fresh process that opens every graph and runs each once."""
        return self.report["peak_bytes"]

    def evaluation(self, split: str) -> Evaluation | None:
        """The task's metric on a split; None if it was not evaluated."""
        found = self.report["metrics"].get(split)
        if found is None:
            return None
        scores, weights = self.arrays[f"scores/{split}"], self.arrays.get(f"weights/{split}")
        return Evaluation(found["name"], scores, weights, found["higher_is_better"], found["extras"])

    @property
    def examples(self) -> list[Example]:
        """Queries and what was answered, with their pictures."""

        def picture(name: str | None) -> np.ndarray | None:
            return self.arrays[name] if name is not None else None

        return [
            Example(
                example["title"],
                picture(example["query"]),
                tuple(Answer(picture(a["image"]), a["label"], a["correct"]) for a in example["answers"]),
            )
            for example in self.report["examples"]
        ]
