"""What the images run: the smoke test, and the harness for the runner `docker`.

    python3 -m targets.container.job smoke [FOLDER]        prints JSON; exit code 1 if anything is not verified
    python3 -m targets.container.job measure REQUEST OUT   REQUEST: JSON of `artifact`, `device`, `settings`, `limits`

A set-up in which numbers would be wrong (see `conditions.wrong_setup`) is named, and nothing is measured.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from profiles.device import Device, load_device
from profiles.errors import CompressorError, MissingError, RequestError
from profiles.storage import read_json, save_npz, write_json
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.container.conditions import seen, wrong_setup
from targets.runners import get_runner
from targets.target import get_target, not_runnable

SMOKE = Path("/opt/smoke")
SMOKE_DEVICE = "device.yaml"  # in the folder of bundles, which the image compiles itself
TIMEOUT_S = 600.0


def smoke(folder: Path) -> dict[str, Any]:
    """Measure every student in a folder: artifacts as they are, bundles compiled for the device that lies beside them.

    Gives {"passed", "conditions", "students": [...]}. Raises RequestError if the folder has none.
    """
    conditions = seen()
    if problem := wrong_setup(conditions):
        return {"passed": False, "conditions": conditions, "problem": problem, "students": []}
    with tempfile.TemporaryDirectory(prefix="compressor-") as work:
        rows = [_check(artifact, device) for artifact, device in _students(folder, Path(work))]
    if not rows:
        raise RequestError(f"{folder}: no artifacts and no bundles to try")
    return {"passed": all(row["status"] == "verified" for row in rows), "conditions": conditions, "students": rows}


def _students(folder: Path, work: Path) -> Iterator[tuple[Artifact, Device]]:
    """Copies that may be written to, and the devices that they are for."""
    for path in sorted(folder.iterdir()):
        if (path / "artifact.json").exists():
            artifact = Artifact.open(shutil.copytree(path, work / path.name))
            yield artifact, load_device(artifact.device)
        elif (path / "bundle.json").exists():
            device = load_device(folder / SMOKE_DEVICE)
            for runtime, offered in device.runtimes.items():
                for precision in offered.precisions:
                    out = work / f"{runtime}-{precision}"
                    yield compile_bundle(Bundle.open(path), device, runtime, precision, out), device


def _check(artifact: Artifact, device: Device) -> dict[str, Any]:
    row: dict[str, Any] = {
        "student": artifact.student_name,
        "runtime": artifact.runtime,
        "precision": artifact.precision_requested,
        "device": device.name,
    }
    refusal = not_runnable(get_target(artifact.runtime))
    if artifact.status != "built" or refusal:
        return {**row, "status": artifact.status, "reason": artifact.reason or refusal}
    try:
        found = _runner(artifact, TIMEOUT_S, None).measure(artifact, device, latency=False)
    except (CompressorError, RuntimeError) as error:
        return {**row, "status": "failed", "reason": str(error)}
    metrics = {split: found.evaluation(split) for split in ("validation", "test")}
    return {
        **row,
        "status": artifact.status,
        "reason": artifact.reason,
        "ran_on": found.ran_on.model_dump(),
        "parity": {name: found.parity(name).model_dump() for name in found.report["graphs"]},
        "metric": {split: {"name": e.name, "value": e.value, "n": len(e.scores)} for split, e in metrics.items() if e},
    }


def _runner(artifact: Artifact, timeout_s: float, memory_bytes: int | None) -> Any:
    """Of C it is the emulated core that answers; all else runs here."""
    name = "qemu_system" if artifact.runtime == "c" else "local"
    return get_runner(name, timeout_s=timeout_s, memory_bytes=memory_bytes)


def measure(request: dict[str, Any], out: Path) -> None:
    """Run the harness as a request says, into a folder: result.json and arrays.npz, or the reason why not."""
    conditions = seen()
    try:
        if problem := wrong_setup(conditions):
            raise RequestError(problem)
        artifact, device = Artifact.open(request["artifact"]), Device.model_validate(request["device"])
        runner = _runner(artifact, request["timeout_s"], request["memory_bytes"])
        found = runner.measure(artifact, device, **request["settings"])
    except (CompressorError, RuntimeError) as error:
        kind = type(error).__name__ if isinstance(error, (RequestError, MissingError)) else "SandboxError"
        write_json(out / "result.json", {"error": {"type": kind, "message": str(error)}, "conditions": conditions})
        return
    save_npz(out / "arrays.npz", found.arrays)
    result = {
        "report": found.report,
        "peaks": found.graph_peak_bytes,
        "ran_on": found.ran_on.model_dump(),
        "runtime_version": get_target(artifact.runtime).version(),
        "conditions": conditions,
    }
    write_json(out / "result.json", result)


def main(arguments: Sequence[str]) -> int:
    if list(arguments[:1]) == ["smoke"] and len(arguments) <= 2:
        report = smoke(Path(arguments[1]) if len(arguments) == 2 else SMOKE)
        print(json.dumps(report, indent=1, allow_nan=False))
        return 0 if report["passed"] else RequestError.exit_code if "problem" in report else 1
    if list(arguments[:1]) == ["measure"] and len(arguments) == 3:
        out = Path(arguments[2])
        out.mkdir()
        measure(read_json(arguments[1]), out)
        return 0
    raise RequestError("usage: smoke [FOLDER] | measure REQUEST OUT")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CompressorError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
