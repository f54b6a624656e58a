"""The main job: students x devices x runtimes x precisions -> artifacts -> measurements -> results.json and a page."""

from __future__ import annotations

import datetime
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from compressor import records
from compressor.policy import choose
from compressor.records import Subject
from compressor.repair import Attempt, Combination, repair
from compressor.report.collect import DetailsWriter
from compressor.subjects import check_subject, is_bundle, open_bundle
from profiles.checkout import checkout_commit
from profiles.device import Device, host_info, load_device
from profiles.errors import MissingError, RequestError
from profiles.flops import Costs, count_onnx
from profiles.results import Record, Results, Run
from targets import sandbox
from targets.artifact import Artifact, compile_bundle, tool_versions
from targets.bundle import SPLITS, Bundle
from targets.glue import Chart
from targets.measurement import Measurement
from targets.runners import get_runner, list_runners
from targets.student import Student, load
from targets.target import get_target, not_runnable

PRECISIONS = ("fp32", "fp16", "int8")
EXAMPLES = 8
CONVERTER_BYTES = 4 << 30  # that a converter may want; fewer run at once where memory is short


@dataclass
class BenchRequest:
    """What `compressor bench` and `compressor compile` were asked for. None: what the device profile says."""

    subjects: Sequence[str]
    devices: Sequence[str]
    out: Path
    command: str
    runtimes: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    overrides: Sequence[str] = field(default_factory=list)
    data: str | None = None
    metric: str | None = None
    runner: str | None = None
    resume: bool = False

    @property
    def explicit_precisions(self) -> set[str]:
        return {precision for precision in self.precisions or () if precision != "auto"}


def bench(request: BenchRequest) -> Results:
    """Compile, check and measure; writes results.json, details.json and report.html into `request.out`.

    The page needs the extra `report`; without it (a device has no use for a page) the records are written and said so.
    Raises RequestError before any work if the request cannot be served, MissingError if nothing asked for is installed.
    """
    devices = _devices(request)
    combinations = list(_combinations(request, devices))
    _check_subjects(request)
    run = _run(request)
    found: list[Record] = []
    details = DetailsWriter(devices)
    for name in request.subjects:
        subject = _open_subject(name, request)
        _refuse_int8_without_data(subject.bundle, request)
        for remark in details.add_subject(subject):
            _say(remark)
        for combination, artifact in zip(
            combinations, _compile_all(subject.bundle, combinations, request), strict=True
        ):
            found += _measure(subject, combination, artifact, request, details)
    if not request.explicit_precisions:
        details.add_choices(choose(found))
    results = Results(schema=1, run=run, records=found)
    request.out.mkdir(parents=True, exist_ok=True)
    details.write(request.out / "details.json")
    results.write(request.out / "results.json")
    _write_page(request)
    return results


def verdict(results: Results, request: BenchRequest) -> int:
    """The exit code: 0 if every student has a good artifact on every device, and what was asked for by name came out.

    Good is verified, or built or deferred where nothing here can run it. Otherwise 1.
    """
    good = ("verified", "built", "deferred")
    whole = [record for record in results.records if record.graph == "*"]
    served = {(record.student, record.device) for record in whole if record.status in good}
    left_out = {(record.student, record.device) for record in whole} - served
    named = request.explicit_precisions
    bad = [r for r in whole if r.precision_requested in named and r.status in ("rejected", "failed")]
    return 1 if left_out or bad else 0


def compile_only(request: BenchRequest) -> list[dict[str, Any]]:
    """Compile without running. Returns one row per artifact."""
    combinations = list(_combinations(request, _devices(request)))
    _check_subjects(request)
    rows = []
    for name in request.subjects:
        bundle = open_bundle(name, _work(request, name), data=request.data)
        _refuse_int8_without_data(bundle, request)
        for cell, artifact in zip(combinations, _compile_all(bundle, combinations, request), strict=True):
            row: dict[str, Any] = {
                "student": bundle.student,
                "device": cell.device.name,
                "runtime": cell.runtime,
                "precision": cell.precision,
            }
            if artifact is None:
                refusal = _refusal(bundle, cell)
                rows.append({**row, "status": "unsupported", "artifact": None, "bytes": None, "reason": refusal})
                continue
            reason = artifact.reason
            if artifact.status == "built" and reason is None:
                reason = f"not run yet: compressor verify {artifact.path} --device {cell.device.name}"
            built = {"artifact": str(artifact.path), "bytes": artifact.bytes, "reason": reason}
            rows.append({**row, "status": artifact.status, **built})
    return rows


def evaluate(path: str, split: str) -> dict[str, Any]:
    """The task metric of a bundle (on PyTorch) or an artifact (on its runtime) on one split, with its interval."""
    from profiles.statistics import bootstrap_interval

    if split not in SPLITS:
        raise RequestError(f"--split {split}: there are {', '.join(SPLITS)}")
    evaluation = load(path).evaluate(split)
    low, high = bootstrap_interval(evaluation.scores, evaluation.weights)
    return {
        "metric": evaluation.name,
        "value": evaluation.value,
        "ci95": [low, high],
        "n": len(evaluation.scores),
        "split": split,
        **evaluation.extras,
    }


def profile(subject: str, data: str | None = None) -> dict[str, Costs]:
    """Costs per graph of a bundle or a model; nothing is run."""
    from profiles.flops import count_program

    if is_bundle(subject):
        return _count(Bundle.open(subject))
    path = Path(subject)
    if path.suffix.lower() == ".onnx" and data is None:
        return {path.stem: count_onnx(path)}
    if path.suffix.lower() == ".pt2" and data is None:
        return {path.stem: count_program(path)}
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return _count(open_bundle(subject, Path(folder), data=data))


def verify(path: Path, devices: Sequence[str], runner: str | None) -> list[dict[str, Any]]:
    """Run the golden inputs of an artifact and compare with the float outputs. Returns one row per graph."""
    artifact = Artifact.open(path)
    if len(devices) > 1:
        raise RequestError("verify takes one --device")
    device = load_device(devices[0] if devices else artifact.device)
    if not all(entry["files"] for entry in artifact.manifest["graphs"].values()):
        raise RequestError(f"{path}: there is nothing to run, its status is {artifact.status} ({artifact.reason})")
    where = _runner_name(device, runner)
    if reason := _not_runnable(artifact, device, where):
        raise MissingError(reason)
    try:
        found = get_runner(where).measure(artifact, device, splits=(), latency=False)
    except sandbox.SandboxError as error:
        common = {"status": "failed", "ran_on": None, "reason": error.reason}
        return [{"graph": name, **common} for name in artifact.graphs]
    rows = []
    for name in artifact.graphs:
        entry, parity = artifact.manifest["graphs"][name], found.parity(name)
        rows.append(
            {
                "graph": name,
                "status": entry["status"],
                "ran_on": f"{found.ran_on.kind} {found.ran_on.name}",
                "max_abs": parity.max_abs,
                "cosine_min": parity.cosine_min,
                "sqnr_db": parity.sqnr_db,
                "n": parity.n,
                **_costs(found, name),
                "reason": entry["reason"],
            }
        )
    return rows


def _costs(found: Measurement, graph: str) -> dict[str, Any]:
    """What an emulator counted of one graph, and how its outputs compare with this machine's; empty without either."""
    cost, memory = found.cost(graph), found.memory(graph).model_dump(exclude_none=True)
    counted: dict[str, Any] = {cost.kind: round(cost.value)} if cost else {}
    compared = found.report["graphs"][graph].get("this_machine")
    return {
        **counted,
        **{f"{name}_bytes": memory[name] for name in ("arena", "flash", "ram", "stack") if name in memory},
        **({"this_machine": compared} if compared else {}),
    }


# -- the parts of the main job -------------------------------------------------------------------------------------


def _devices(request: BenchRequest) -> list[Device]:
    if not request.devices:
        raise RequestError("which device? give --device NAME (see: compressor devices) or --device profile.yaml")
    if not request.subjects:
        raise RequestError("what? give a bundle, a recipe or a model")
    devices = [load_device(name) for name in request.devices]
    names = [device.name for device in devices]
    if len(set(names)) < len(names):
        raise RequestError(f"two devices have the name {max(names, key=names.count)!r}")
    return devices


def _combinations(request: BenchRequest, devices: Sequence[Device]) -> Iterator[Combination]:
    """Every cell of the matrix. What was asked for by name and cannot be is an error, the rest has a refusal."""
    for precision in request.explicit_precisions - set(PRECISIONS):
        raise RequestError(f"--precision {precision}: there are auto, {', '.join(PRECISIONS)}")
    refusals: dict[str, MissingError] = {}
    cells = []
    for device in devices:
        for runtime in request.runtimes or ():
            get_target(runtime)  # an unknown runtime is named as such
            if runtime not in device.runtimes:
                has = ", ".join(device.runtimes)
                raise RequestError(f"--runtime {runtime}: device {device.name} has {has}")
        for runtime in request.runtimes or device.runtimes:
            allowed = device.runtimes[runtime].precisions
            wanted = [p for p in PRECISIONS if p in (request.explicit_precisions or allowed)]
            if refused := [precision for precision in wanted if precision not in allowed]:
                raise RequestError(
                    f"--precision {refused[0]}: device {device.name} takes {', '.join(allowed)} with {runtime}"
                )
            try:
                get_target(runtime).version()
            except MissingError as error:
                refusals[runtime] = error
            reason = str(refusals[runtime]) if runtime in refusals else None
            cells += [Combination(device, runtime, precision, reason) for precision in wanted]
    if refusals and (request.runtimes or all(cell.refusal for cell in cells)):
        raise next(iter(refusals.values()))
    yield from cells


def _refuse_int8_without_data(bundle: Bundle, request: BenchRequest) -> None:
    if "int8" in request.explicit_precisions and (reason := _lacks_calibration(bundle)):
        raise RequestError(reason)


def _lacks_calibration(bundle: Bundle) -> str | None:
    missing = [name for name in bundle.graphs if bundle.calibration(name) is None]
    return "int8 needs --data: without real inputs there is nothing to take ranges from" if missing else None


def _refusal(bundle: Bundle, cell: Combination) -> str | None:
    return cell.refusal or (_lacks_calibration(bundle) if cell.precision == "int8" else None)


def _work(request: BenchRequest, name: str) -> Path:
    """Where a subject's bundle is made: OUT itself for one subject, a folder in it for each of several."""
    if len(request.subjects) == 1:
        return request.out
    return request.out / "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-.")


def _check_subjects(request: BenchRequest) -> None:
    """The last of several students may have a wrong name: better said before the first is measured."""
    for name in request.subjects:
        check_subject(
            name, data=request.data, metric=request.metric, overrides=request.overrides, resume=request.resume
        )


def _open_subject(name: str, request: BenchRequest) -> Subject:
    bundle = open_bundle(
        name,
        _work(request, name),
        data=request.data,
        metric=request.metric,
        overrides=request.overrides,
        resume=request.resume,
    )
    student = load(bundle.path) if bundle.manifest.get("has_metric") else None
    if student is None:
        return Subject(bundle, _count(bundle), {})
    _say(f"evaluating {bundle.student} in float")
    floats = {split: student.evaluate(split) for split in SPLITS if bundle.has_split(split)}
    subject = Subject(bundle, _count(bundle), floats, _glue_macs(bundle, student))
    return replace(subject, charts=_charts(subject, student))


def _count(bundle: Bundle) -> dict[str, Costs]:
    return {name: count_onnx(bundle.source(name).onnx) for name in bundle.graphs}


def query_macs(path: Path) -> dict[str, float]:
    """The parts of a bundle's MACs per query: its graphs' by how often they are called, and the glue's own."""
    bundle = Bundle.open(path)
    subject = Subject(bundle, _count(bundle), {}, _glue_macs(bundle, load(path)))
    return subject.query_macs(bundle.uses["query"])


def _glue_macs(bundle: Bundle, student: Student) -> dict[str, float]:
    """What the float student's glue does itself, over the part on which calls are counted too (targets.harness)."""
    count = getattr(student.glue, "macs", None)
    split = next((name for name in SPLITS if bundle.has_split(name)), None)
    if count is None or split is None:
        return {}
    queries = list(student.glue.queries(bundle.split(split)))
    return dict(count(queries, [student(query) for query in queries]))


def _charts(subject: Subject, student: Student) -> tuple[Chart, ...]:
    """What the task draws of its float student on the part that is shown."""
    draw = getattr(student.glue, "charts", None)
    if draw is None:
        return ()
    macs = {name: float(costs.macs) for name, costs in subject.costs.items()}
    return tuple(draw(subject.bundle.split(_shown(subject)), macs))


def _measure(
    subject: Subject, cell: Combination, artifact: Artifact | None, request: BenchRequest, details: DetailsWriter
) -> list[Record]:
    """One cell of the matrix: run, judge. An int8 file that fails, and was not asked for by name, gets another chance
    with the layers that hurt in float."""
    if artifact is None:
        refusal = _refusal(subject.bundle, cell) or ""
        return records.known_beforehand(subject, cell.device, cell.runtime, cell.precision, "unsupported", refusal)

    def again(other: Combination) -> Attempt:
        return _attempt(subject, other, _compile(subject.bundle, other, request), request)

    attempt = _attempt(subject, cell, artifact, request)
    if cell.precision == "int8" and not request.explicit_precisions and attempt.whole.status == "rejected":
        attempt = repair(subject.bundle, cell, attempt, again, _say)
    details.add_artifact(subject, attempt.rows, attempt.artifact, attempt.found, _shown(subject))
    return attempt.rows


def _attempt(subject: Subject, cell: Combination, artifact: Artifact, request: BenchRequest) -> Attempt:
    """Run once."""
    found: Measurement | None = None
    where = _where(artifact, cell.device, request.runner)
    if artifact.status == "built" and not _not_runnable(artifact, cell.device, where):
        _say(f"running {artifact.student_name} on {cell.device.name}: {cell.runtime} {cell.precision}")
        try:
            found = get_runner(where).measure(artifact, cell.device, examples=EXAMPLES if _has_report() else 0)
        except sandbox.SandboxError as error:
            _say(f"failed: {error.reason}")
            artifact = Artifact.open(artifact.path)
    return Attempt(records.measured(subject, cell.device, artifact, found, _shown(subject)), artifact, found)


def _shown(subject: Subject) -> str:
    return "test" if subject.bundle.has_split("test") else "validation"


def _has_report() -> bool:
    return all(importlib.util.find_spec(module) is not None for module in ("jinja2", "plotly", "PIL"))


def _write_page(request: BenchRequest) -> None:
    from compressor.report import write_report

    if not _has_report():
        _say(f"no page: pip install 'edge-compressor[report]', then: compressor report {request.out / 'results.json'}")
        return
    page = request.out / "report.html"
    write_report([request.out / "results.json"], page)
    _say(f"report: {page}")


def _compile_all(bundle: Bundle, cells: Sequence[Combination], request: BenchRequest) -> list[Artifact | None]:
    """The artifact of every cell that is not refused; several converters at once, before anything is measured."""
    memory = psutil.virtual_memory().available // CONVERTER_BYTES
    workers = max(1, min(os.cpu_count() or 1, memory))
    with ThreadPoolExecutor(workers) as pool:
        futures = [None if _refusal(bundle, cell) else pool.submit(_compile, bundle, cell, request) for cell in cells]
        try:
            return [None if future is None else future.result() for future in futures]
        except BaseException:  # Ctrl-C too: nobody waits for a converter whose file nobody wants
            pool.shutdown(wait=False, cancel_futures=True)
            sandbox.stop_all()
            raise


def _compile(bundle: Bundle, cell: Combination, request: BenchRequest) -> Artifact:
    _say(f"compiling {bundle.student} for {cell.device.name}: {cell.runtime} {cell.precision}")
    folder = f"{cell.runtime}-{cell.precision}"
    out = request.out / "artifacts" / bundle.student / cell.device.name / folder
    return compile_bundle(bundle, cell.device, cell.runtime, cell.precision, out)


def _runner_name(device: Device, asked: str | None) -> str:
    """Where a device's artifacts run: what was asked for, the device, its emulator where there is one here, or here."""
    if asked:
        return asked
    if device.runner:
        return device.runner.kind
    return device.emulator.kind if device.emulator and device.emulator.kind in list_runners() else "local"


def _where(artifact: Artifact, device: Device, asked: str | None) -> str:
    """The runner of an artifact; this machine where the tools of an emulator that nobody asked for are not here."""
    name = _runner_name(device, asked)
    if asked or device.runner or not (lack := get_runner(name).missing(artifact, device)):
        return name
    _say(f"{device.name} is not emulated, its files run on this machine: {lack}")
    return "local"


def _not_runnable(artifact: Artifact, device: Device, where: str) -> str | None:
    """Why an artifact cannot be run here; a runner that reaches the device itself may still do it."""
    reaches_device = where not in ("local", device.emulator.kind if device.emulator else "local")
    reason = not_runnable(get_target(artifact.runtime))
    return None if reason is None or reaches_device else artifact.reason or reason


def _run(request: BenchRequest) -> Run:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Run(command=request.command, commit=checkout_commit(), date=now, host=host_info(), versions=tool_versions())


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
