"""Every student on every emulated device: is it the same there, what does it cost there, what does it still know?

    python benchmarks/harness.py                        # every runs/*/bundle
    python benchmarks/harness.py --bundle runs/demo/bundle --devices raspberry-pi-zero-2 fossil-gen-6

Devices: all profiles that name an emulator (Cortex-M under QEMU's system mode; phones, Raspberry Pis and a watch under
its user mode), with each of their runtimes that can be emulated, in fp32 and int8. A row has the instructions of one
inference of each graph and of one query, the memory, the parity with the float student, the task's metric on the test
part, and how the outputs compare with those of the same file on this machine: `exact`, or the largest difference.
These are emulators: instructions, never times. How instructions are counted: docs/devices.md.

One part per bundle, device, runtime and precision, kept in runs/harness once it is done: a stopped run goes on, as long
as the sources are the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.writing import RESULTS, write_rows
from profiles.device import Device, list_devices, load_device
from profiles.errors import CompressorError, MissingError
from profiles.storage import read_json, write_json
from targets import sandbox
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.container import images
from targets.measurement import Measurement
from targets.runners import get_runner
from targets.target import get_target, not_runnable

WORK = ROOT / "runs" / "harness"
PRECISIONS = ("fp32", "int8")
TIMEOUT_S = 900.0
MEMORY = ("arena", "flash", "ram", "stack")


def parse_arguments() -> argparse.Namespace:
    emulated = [name for name in list_devices() if load_device(name).emulator]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, nargs="+", help="default: every runs/*/bundle")
    parser.add_argument("--devices", nargs="+", default=emulated, choices=emulated)
    parser.add_argument("--runtimes", nargs="+", help="default: those of each device that can be emulated")
    parser.add_argument("--limit", type=int, help="items of the test part; default: all, as far as the time allows")
    parser.add_argument("--out", type=Path, default=RESULTS / "harness.json")
    return parser.parse_args()


def bundles(asked: list[Path] | None) -> list[Path]:
    """The bundles to run. A run that has not finished has none."""
    found = asked or sorted(path.parent for path in (ROOT / "runs").glob("*/bundle/bundle.json"))
    if not found:
        sys.exit("no runs/*/bundle: make demo makes one")
    return found


def cells(devices: list[str], runtimes: list[str] | None) -> Iterator[tuple[Device, str, str]]:
    """(device, runtime, precision) of what can be emulated."""
    for name in devices:
        device = load_device(name)
        assert device.emulator is not None
        for runtime, offered in device.runtimes.items():
            if runtimes is not None and runtime not in runtimes:
                continue
            if not_runnable(get_target(runtime)) is None:
                yield from ((device, runtime, precision) for precision in PRECISIONS if precision in offered.precisions)


def measure(bundle: Bundle, name: str, device: Device, runtime: str, precision: str, limit: int | None) -> list[Any]:
    """The rows of one part, from disk if it was done before with these sources."""
    assert device.emulator is not None
    part = WORK / name / device.name / f"{runtime}-{precision}"
    key = [images.sources_hash(), bundle.sha256, limit, device.model_dump(mode="json", by_alias=True)]
    done = part.with_suffix(".json")
    if done.exists() and (found := read_json(done))["key"] == key:
        return found["rows"]
    start = time.monotonic()
    common = {"bundle": name, "student": bundle.student, "device": device.name, "runtime": runtime}
    common |= {"precision": precision}
    try:
        artifact = compile_bundle(bundle, device, runtime, precision, part)
        if not all(artifact.files(graph) for graph in artifact.graphs):
            return [{**common, "graph": "*", "status": artifact.status, "reason": artifact.reason}]
        runner = get_runner(device.emulator.kind, timeout_s=TIMEOUT_S)
        split = "test" if bundle.has_split("test") else "validation"
        measured = runner.measure(artifact, device, splits=(split,), limit=limit)
        rows = [{**common, **row} for row in rows_of(Artifact.open(part), measured, split)]
    except MissingError as error:  # compiled, but this machine cannot run it
        rows = [{**common, "graph": "*", "status": "built", "reason": str(error)}]
    except (sandbox.SandboxError, CompressorError) as error:
        rows = [{**common, "graph": "*", "status": "failed", "reason": str(error)}]
    rows[-1]["seconds"] = round(time.monotonic() - start, 1)
    if rows[-1]["status"] not in ("failed", "built"):  # done with a tool that was missing or a device that hung
        write_json(done, {"key": key, "rows": rows})
    return rows


def rows_of(artifact: Artifact, found: Measurement, split: str) -> Iterator[dict[str, Any]]:
    """One row per graph, and one for the whole student, whose metric stands there."""
    for name in artifact.graphs:
        entry = artifact.manifest["graphs"][name]
        yield {
            "graph": name,
            "status": entry["status"],
            "reason": entry["reason"],
            **_costs(found, name),
            "parity": found.parity(name).model_dump(exclude={"inputs", "agreement"}),
            "this_machine": found.report["graphs"][name].get("this_machine"),
        }
    metric = found.evaluation(split)
    yield {
        "graph": "*",
        "status": artifact.status,
        "reason": artifact.reason,
        "ran_on": found.ran_on.name,
        **_costs(found, "*"),
        "metric": metric and {"name": metric.name, "value": metric.value, "n": len(metric.scores), "split": split},
    }


def _costs(found: Measurement, graph: str) -> dict[str, Any]:
    cost, memory = found.cost(graph), found.memory(graph).model_dump()
    return {
        "instructions": round(cost.value) if cost and cost.kind == "instructions" else None,
        "memory_bytes": {key: memory[key] for key in MEMORY},
    }


def main() -> None:
    arguments = parse_arguments()
    rows: list[dict[str, Any]] = []
    for path in bundles(arguments.bundle):
        bundle, name = Bundle.open(path), path.parent.name if path.name == "bundle" else path.name
        for device, runtime, precision in cells(arguments.devices, arguments.runtimes):
            found = measure(bundle, name, device, runtime, precision, arguments.limit)
            rows += found
            print(f"{name} {device.name} {runtime} {precision}: {found[-1]['status']} {found[-1].get('seconds')} s")
            sys.stdout.flush()
            minutes = sum(row.get("seconds", 0) for row in rows) / 60
            write_rows(arguments.out, rows, minutes=minutes)


if __name__ == "__main__":
    main()
