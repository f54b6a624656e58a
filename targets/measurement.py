"""What the harness found, as the records of results.json want it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    def cost(self, graph: str = "*") -> results.Cost | None:
        """Of one inference of a graph, or of a query ("*"): see `cost_per_query`; counted with the glue where a runner
        can (see targets.firmware.query)."""
        if graph == "*":
            if self.whole and self.whole["cost"]:
                return results.Cost.model_validate(self.whole["cost"])
            return cost_per_query({name: self.cost(name) for name in self.report["graphs"]}, self.calls)
        found = self.report["graphs"][graph].get("cost")
        return results.Cost.model_validate(found) if found else None

    def memory(self, graph: str = "*") -> results.Memory:
        """Of one graph, or of the whole student ("*"): see `memory_together`. What is not known is None.

        The resident memory of an emulator's process is not the device's: there is no peak then."""
        if graph == "*":
            if self.whole:
                return results.Memory.model_validate(self.whole["memory"])
            whole = memory_together({name: self.memory(name) for name in self.report["graphs"]})
            return whole.model_copy(update={"peak": self.peak_bytes})
        known = self.report["graphs"][graph].get("memory") or {}
        return results.Memory(**known, peak=self._resident(self.graph_peak_bytes.get(graph)))

    @property
    def whole(self) -> dict[str, Any] | None:
        """Cost and memory of a whole query that was measured as one program; None if it was not."""
        return self.report.get("whole")

    def _resident(self, peak_bytes: int | None) -> int | None:
        return None if self.ran_on.kind == "emulator" else peak_bytes

    @property
    def calls(self) -> dict[str, float]:
        """Items that each graph is given per query, the mean over the queries; empty if there were none."""
        return self.report["query"]["calls"] if self.report["query"] else {}

    @property
    def timings(self) -> dict[str, float]:
        """Of a query that comes in over time, by name with unit; empty where the glue has none or nothing was timed."""
        return (self.report["query"] or {}).get("timings", {})

    @property
    def peak_bytes(self) -> int | None:
        """Peak resident memory of a fresh process that opens every graph and runs each once; None for an emulator's."""
        return self._resident(self.report.get("peak_bytes"))

    def evaluation(self, split: str) -> Evaluation | None:
        """The task's metric on a split; None if it was not evaluated."""
        found = self.report["metrics"].get(split)
        if found is None:
            return None
        scores, weights = self.arrays[f"scores/{split}"], self.arrays.get(f"weights/{split}")
        return Evaluation(found["name"], scores, weights, found["higher_is_better"], found["extras"])

    @property
    def examples(self) -> list[Example]:
        """Queries and what was answered, with their pictures and sounds."""

        def picture(name: str | None) -> np.ndarray | None:
            return self.arrays[name] if name is not None else None

        return [
            Example(
                example["title"],
                picture(example["query"]),
                tuple(Answer(picture(a["image"]), a["label"], a["correct"]) for a in example["answers"]),
                picture(example["sound"]),
                example["remark"],
            )
            for example in self.report["examples"]
        ]


def cost_per_query(costs: Mapping[str, results.Cost | None], calls: Mapping[str, float]) -> results.Cost | None:
    """The mean cost of a query: each graph's, times how often it is called. It is estimated if any of them is.

    None if the cost of a graph that is called is not known, or if they are of different kinds.
    """
    parts = [(costs.get(name), times) for name, times in calls.items() if times]
    known = [(cost, times) for cost, times in parts if cost is not None]
    if not known or len(known) < len(parts) or len({cost.kind for cost, _ in known}) > 1:
        return None
    estimated = any(cost.source == "estimated" for cost, _ in known)
    return results.Cost(
        kind=known[0][0].kind,
        value=sum(cost.value * times for cost, times in known),
        source="estimated" if estimated else "counted",
    )


def memory_together(memories: Mapping[str, results.Memory]) -> results.Memory:
    """What the graphs of a student take side by side on one device; None where one of them is not known.

    Flash, RAM and arenas are sums: every graph keeps its own code, weights and arena (startup code is counted with
    each, so the sums are upper bounds). Stack is the largest: graphs run one after the other.
    """

    def joined(name: str, join: Callable[[list[int]], int]) -> int | None:
        values = [getattr(memory, name) for memory in memories.values()]
        return None if not values or None in values else join(values)

    return results.Memory(
        arena=joined("arena", sum), flash=joined("flash", sum), ram=joined("ram", sum), stack=joined("stack", max)
    )
