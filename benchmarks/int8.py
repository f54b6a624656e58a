"""int8 against float: what is lost, with paired intervals, and what `--precision auto` keeps of both, and why.

    make demo && python benchmarks/int8.py

The small networks of tests/targets are trained (seconds each) and asked about 1,000 fresh items; a trained bundle
(runs/demo/bundle) is asked about its own test part. Each is benched on the runtimes of benchmarks/int8.yaml.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.writing import RESULTS, ROOT, write_rows
from compressor.bench import BenchRequest, bench
from compressor.policy import Choice, choose
from compressor.terminal import print_table
from profiles.results import Record
from profiles.statistics import bootstrap_interval, paired_bootstrap
from targets import load
from targets.bundle import Bundle
from tests.targets import matrix_nets, small_nets

TASKS = {**small_nets.TASKS, **matrix_nets.TASKS}
ITEMS, SEED = 1000, 5  # of fresh items per small network: seeds 1 to 4 are what it and its bundle were made of
RAN = ("verified", "rejected")
Arrays = dict[str, np.ndarray]


def fresh_items(name: str, net: Any) -> Arrays:
    """Inputs and truth that neither the network nor its bundle have seen."""
    inputs, truth = TASKS[name].data(net, ITEMS, SEED)
    return {**{f"inputs/{key}": value for key, value in inputs.items()}, "targets": truth}


def metric_of(record: Record, bundle: Path, data: Arrays | str) -> dict[str, Any]:
    """The task metric of the float bundle and of a compiled file on the same items, and how far it fell."""
    assert record.artifact_path is not None
    before, after = load(bundle).evaluate(data), load(record.artifact_path).evaluate(data)
    sign = 1.0 if after.higher_is_better else -1.0
    fall = paired_bootstrap(sign * before.scores, sign * after.scores, after.weights)
    return {
        "metric": after.name, "n": len(after.scores), "float_value": before.value, "int8_value": after.value,
        "float_ci95": list(bootstrap_interval(before.scores, before.weights)),
        "drop": fall.difference, "drop_ci95": list(fall.ci95),
    }  # fmt: skip


def rows_of(
    records: Sequence[Record], choices: Sequence[Choice], bundle: Path, data: Arrays | str
) -> list[dict[str, Any]]:
    """One row per runtime of a student. `data`: the items to ask about, or the name of a split of the bundle."""
    rows = []
    for whole in records:
        if whole.graph != "*" or whole.precision_requested != "int8":
            continue
        same = (whole.student, whole.runtime)
        graphs = {
            r.graph: r.parity.sqnr_db if r.parity else None
            for r in records
            if (r.student, r.runtime) == same and r.graph != "*" and r.precision_requested == "int8"
        }
        choice = next(c for c in choices if (c.student, c.runtime) == same)
        measured = metric_of(whole, bundle, data) if whole.status in RAN and whole.ran_on else {}
        row = {"student": whole.student, "runtime": whole.runtime, "status": whole.status, "reason": whole.reason}
        rows.append({**row, "sqnr_db": graphs, **measured, "kept": choice.kept, "why": choice.sentence()})
    return rows


def bench_one(bundle: Path, data: Arrays | str, work: Path) -> list[dict[str, Any]]:
    request = BenchRequest(
        subjects=[str(bundle)], devices=[str(ROOT / "benchmarks" / "int8.yaml")], out=work,
        command="python benchmarks/int8.py",
    )  # fmt: skip
    results = bench(request)
    choices = choose(results.records)
    print_table(results, choices=choices)
    return rows_of(results.records, choices, bundle, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        help="only these trained bundles (default: all networks and runs/demo/bundle)",
    )
    parser.add_argument("--network", choices=list(TASKS), action="append", help="only this one, and no bundle")
    parser.add_argument("--work", type=Path, default=Path("runs/int8"))
    parser.add_argument("--out", type=Path, default=RESULTS / "int8.json")
    arguments = parser.parse_args()
    start = time.monotonic()
    rows: list[dict[str, Any]] = []

    def add(more: list[dict[str, Any]]) -> None:
        rows.extend(more)
        minutes = (time.monotonic() - start) / 60
        write_rows(arguments.out, rows, minutes=minutes, seeds=[SEED], before="" if arguments.bundle else "make demo")

    for name in arguments.network or ([] if arguments.bundle else TASKS):
        path, net = arguments.work / "bundles" / name, TASKS[name].train()
        small_nets.write_bundle(path, name, net, TASKS[name])
        add(bench_one(path, fresh_items(name, net), arguments.work / name))
    for path in arguments.bundle or ([] if arguments.network else [Path("runs/demo/bundle")]):
        add(bench_one(path, "test", arguments.work / Bundle.open(path).student))


if __name__ == "__main__":
    main()
