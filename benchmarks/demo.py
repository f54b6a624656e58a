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
from compressor.report.details import Details, load_details, record_key
from profiles.results import Record, Results
from profiles.storage import read_json


def rows_of(results: Results, bundle: dict[str, Any], details: Details) -> list[dict[str, Any]]:
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
    return [first, *(artifact_row(record, bundle["task"], details) for record in whole)]


def artifact_row(record: Record, task: str, details: Details) -> dict[str, Any]:
    metric, paired = record.task_metric, details.against_float.get(record_key(record))
    return {
        "task": task,
        "variant": f"{record.runtime} {record.precision_requested}"
        + ("" if record.device == "host" else f" on {record.device}"),
        "status": record.status,
        "metric": metric.name if metric else None,
        "value": metric.value if metric else None,
        "ci95": list(metric.ci95) if metric else None,
        "n": metric.n if metric else None,
        "float_value": metric.float_value if metric else None,
        "minus_float": paired.difference if paired else None,
        "minus_float_ci95": list(paired.ci95) if paired else None,  # paired, over the same queries
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
    details = load_details(arguments.run / "details.json")
    rows = rows_of(results, read_json(arguments.run / "bundle" / "bundle.json"), details)
    write_rows(arguments.out, rows, minutes=seconds / 60, seeds=[0], before="make demo")
    for row in rows:
        paired = row.get("minus_float_ci95")
        said = f"  minus float {row['minus_float']:+.3f} [{paired[0]:+.3f}, {paired[1]:+.3f}]" if paired else ""
        value = "  -  " if row["value"] is None else f"{row['value']:.3f}"
        print(f"{row['variant']:40s} {value}  {row['macs']:.4g} MACs{said}")


if __name__ == "__main__":
    main()
