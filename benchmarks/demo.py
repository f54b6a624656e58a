"""What `make demo` measured, as rows: the teacher, the float student, and every compiled file.

    make demo && python benchmarks/demo.py

Reads runs/demo/results.json and the run beside it; nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.writing import RESULTS, write_rows
from profiles.results import Record, Results
from profiles.storage import read_json


def rows_of(results: Results, bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """The teacher's row and one per artifact of the whole student."""
    whole = [record for record in results.records if record.graph == "*"]
    metric = whole[0].task_metric
    assert metric is not None
    teacher = bundle["teacher"]
    first = {
        "task": bundle["task"],
        "variant": f"teacher ({teacher['name']})",
        "metric": metric.name,
        "value": metric.teacher_value,
        "ci95": None,
        "n": metric.n,
        "macs": teacher["macs"],
        "parameters": teacher["parameters"],
    }
    return [first, *(artifact_row(record, bundle["task"]) for record in whole)]


def artifact_row(record: Record, task: str) -> dict[str, Any]:
    metric = record.task_metric
    return {
        "task": task,
        "variant": f"{record.runtime} {record.precision_requested}",
        "status": record.status,
        "metric": metric.name if metric else None,
        "value": metric.value if metric else None,
        "ci95": list(metric.ci95) if metric else None,
        "n": metric.n if metric else None,
        "float_value": metric.float_value if metric else None,
        "macs": record.macs,
        "parameters": record.parameters,
        "artifact_bytes": record.artifact_bytes,
        "latency_ms_p50": record.latency_ms.p50 if record.latency_ms else None,
        "latency_ms_mean_ci95": list(record.latency_ms.ci95) if record.latency_ms else None,
        "peak_bytes": record.memory_bytes.peak if record.memory_bytes else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=RESULTS / "demo.json")
    arguments = parser.parse_args()
    results = Results.load(arguments.run / "results.json")
    stages = read_json(arguments.run / "run.json")["stages"]
    seconds = sum(stage["seconds"] for stage in stages.values())
    rows = rows_of(results, read_json(arguments.run / "bundle" / "bundle.json"))
    write_rows(arguments.out, rows, minutes=seconds / 60, seeds=[0], before="make demo")
    for row in rows:
        print(f"{row['variant']:40s} {row['value']:.3f}  {row['macs']:.4g} MACs")


if __name__ == "__main__":
    main()
