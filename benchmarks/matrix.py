"""Five small trained networks x five runtimes x three precisions: what comes out of each, checked and measured.

    python benchmarks/matrix.py

Trains the networks of tests/targets (seconds each), writes their bundles to runs/matrix and benches them all with one
call, as `compressor bench BUNDLE... --device benchmarks/matrix.yaml` would.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.writing import RESULTS, ROOT, write_rows
from compressor.bench import BenchRequest, bench
from compressor.policy import choose
from compressor.terminal import print_table
from profiles.results import Record
from tests.targets import matrix_nets, small_nets

TASKS = {name: small_nets.TASKS[name] for name in ("image", "imu", "gru")} | matrix_nets.TASKS


def row_of(record: Record) -> dict[str, Any]:
    parity, metric = record.parity, record.task_metric
    return {
        "network": record.student, "runtime": record.runtime, "precision": record.precision_requested,
        "graph": record.graph, "status": record.status, "reason": record.reason,
        "artifact_bytes": record.artifact_bytes, "sqnr_db": parity.sqnr_db if parity else None,
        "max_abs": parity.max_abs if parity else None, "metric": metric.name if metric else None,
        "value": metric.value if metric else None, "ci95": list(metric.ci95) if metric else None,
        "float_value": metric.float_value if metric else None, "n": metric.n if metric else None,
        "latency_ms_mean": record.latency_ms.mean if record.latency_ms else None, "macs": record.macs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--out", type=Path, default=RESULTS / "matrix.json")
    arguments = parser.parse_args()
    start = time.monotonic()
    subjects = []
    for name, task in TASKS.items():
        path = arguments.work / "bundles" / name
        small_nets.write_bundle(path, name, task.train(), task)
        subjects.append(str(path))
    request = BenchRequest(
        subjects=subjects, devices=[str(ROOT / "benchmarks" / "matrix.yaml")], out=arguments.work,
        command="python benchmarks/matrix.py",
    )  # fmt: skip
    results = bench(request)
    choices = choose(results.records)
    print_table(results, choices=choices)
    rows = [row_of(record) for record in results.records]
    rows += [{"network": c.student, "runtime": c.runtime, "kept": c.kept, "why": c.sentence()} for c in choices]
    write_rows(arguments.out, rows, minutes=(time.monotonic() - start) / 60, seeds=[0])


if __name__ == "__main__":
    main()
