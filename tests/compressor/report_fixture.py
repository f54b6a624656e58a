"""A made-up run for the tests of the report: nothing here was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from compressor.report import details as details_module
from compressor.report import view
from compressor.report.pictures import encode_png, encode_wav
from profiles.results import Record, Results

STUDENT = "made-up-sketcher"
EVIL = "<script>window.pwned = 1</script>"
EVIL_LABEL = 'cat"><img src=x onerror="window.pwned = 2">'
SPEED_MS = {"onnx": {"fp32": 0.42, "fp16": 0.47, "int8": 0.61}, "openvino": {"fp32": 0.36, "fp16": 0.365, "int8": 0.21}}
BYTES = {"fp32": 371_204, "fp16": 190_310, "int8": 118_020}
METRIC = {"fp32": 0.253, "fp16": 0.253, "int8": 0.241}


def _latency(samples: np.ndarray) -> dict[str, Any]:
    p50, p90, p99 = (float(np.percentile(samples, q)) for q in (50, 90, 99))
    half = float(1.96 * samples.std() / np.sqrt(len(samples)))
    mean = float(samples.mean())
    return {
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "mean": mean,
        "ci95": [mean - half, mean + half],
        "n": len(samples),
        "threads": 2,
        "warmup": 50,
    }


def _samples(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Skewed, with a few stragglers, as latencies are."""
    samples = scale * (1 + rng.gamma(2.0, 0.03, 1200))
    samples[rng.random(1200) < 0.02] *= 1.8
    return samples


def _metric(value: float, **more: Any) -> dict[str, Any]:
    return {
        "name": "acc@1",
        "value": value,
        "ci95": [round(value - 0.047, 3), round(value + 0.048, 3)],
        "n": 328,
        "split": "test",
        "float_value": 0.253,
        "teacher_value": 0.393,
        "higher_is_better": True,
        **more,
    }


def _record(student: str, device: str, runtime: str, precision: str, **more: Any) -> dict[str, Any]:
    return {
        "student": student,
        "graph": "*",
        "device": device,
        "runtime": runtime,
        "runtime_version": "1.0",
        "precision_requested": precision,
        "precision": precision,
        "status": "verified",
        "batch": 1,
        "macs": 2_337_792,
        "flops": 4_675_584,
        "parameters": 92_400,
        "uncounted_ops": {},
        "artifact_bytes": BYTES[precision],
        "artifact_path": f"artifacts/{student}/{device}/{runtime}-{precision}",
        "artifact_sha256": "ab" * 32,
        "ran_on": {"kind": "host", "name": "made-up-host"},
        **more,
    }


def _budget(device: str, p50_ms: float | None, bytes_: int) -> dict[str, Any]:
    limit = 500_000 if device == "host" else 300_000
    return {
        "latency_ms": {"limit": 5.0, "value": p50_ms, "state": "unknown" if p50_ms is None else "passed"},
        "artifact_bytes": {"limit": limit, "value": bytes_, "state": "passed" if bytes_ <= limit else "missed"},
    }


def _parity(precision: str) -> dict[str, Any]:
    values = {
        "fp32": (3.1e-6, 0.999999, 112.4, 1.0),
        "fp16": (8e-4, 0.99998, 61.7, 1.0),
        "int8": (0.061, 0.9981, 27.3, 0.94),
    }[precision]
    return dict(zip(("max_abs", "cosine_min", "sqnr_db", "agreement"), values, strict=True), n=32, inputs="real")


def _records(student: str, rng: np.random.Generator, samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    records = []
    for device in ("host", "x86-laptop"):
        for runtime, speeds in SPEED_MS.items():
            for precision, scale in speeds.items():
                latency = None
                if device == "host":
                    drawn = _samples(rng, scale)
                    latency = _latency(drawn)
                    samples["|".join((student, "*", device, runtime, precision))] = [round(float(s), 5) for s in drawn]
                value = METRIC[precision] - (0.004 if runtime == "onnx" and precision == "int8" else 0)
                shared: dict[str, Any] = {
                    "latency_ms": latency,
                    "parity": _parity(precision),
                    "memory_bytes": {"peak": 61_000_000 + BYTES[precision]},
                }
                budget = _budget(device, latency and latency["p50"], BYTES[precision])
                whole = _record(
                    student,
                    device,
                    runtime,
                    precision,
                    task_metric=_metric(value),
                    budget=budget,
                    **shared | {"parity": None},
                )
                if budget["artifact_bytes"]["state"] == "missed":
                    whole |= {"status": "rejected", "reason": "artifact_bytes 371204 is over the budget of 300000"}
                encoder = _record(student, device, runtime, precision, graph="encoder_32", **shared)
                records += [whole, encoder]
    by_key = {(r["graph"], r["device"], r["runtime"], r["precision_requested"]): r for r in records}
    unrun = {"ran_on": None, "latency_ms": None, "parity": None, "memory_bytes": None, "task_metric": None}
    by_key["*", "x86-laptop", "onnx", "fp16"].update(
        unrun,
        status="failed",
        precision=None,
        artifact_bytes=None,
        artifact_path=None,
        artifact_sha256=None,
        budget=None,
        reason=f"killed by signal 11 (SIGSEGV) while compiling {EVIL}",
    )
    by_key["*", "x86-laptop", "openvino", "fp16"].update(
        unrun,
        status="unsupported",
        precision=None,
        artifact_bytes=None,
        artifact_path=None,
        artifact_sha256=None,
        budget=None,
        reason="the device profile lists no fp16 for openvino",
    )
    by_key["*", "x86-laptop", "onnx", "int8"].update(
        status="rejected",
        task_metric=_metric(0.171),
        reason="acc@1 fell by 0.082, more than the 0.010 that the device allows",
    )
    return records


def results(student: str = STUDENT, seed: int = 1) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """A results.json and the latency samples that belong to it."""
    samples: dict[str, list[float]] = {}
    records = _records(student, np.random.default_rng(seed), samples)
    run = {
        "command": f"compressor bench made-up --device host --device x86-laptop --out 'runs/{EVIL}'",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "date": "2031-02-03T04:05:06+00:00",
        "host": {"name": "made-up-host", "cpu": "Made-Up CPU 9000", "cores": 2, "memory_bytes": 8_000_000_000},
        "versions": {"python": "3.11.0", "onnxruntime": "0.0.0", "openvino": "0.0.0"},
    }
    Results.model_validate({"schema": 1, "run": run, "records": records})
    return {"schema": 1, "run": run, "records": records}, samples


def _drawing(rng: np.random.Generator, size: int = 48) -> np.ndarray:
    """Dark strokes on white, (size, size) uint8."""
    grid = np.mgrid[0:size, 0:size] / size
    picture = np.full((size, size), 255, np.uint8)
    for _ in range(3):
        cx, cy, radius = rng.uniform((0.25, 0.25, 0.1), (0.75, 0.75, 0.35))
        ring = np.abs(np.hypot(grid[0] - cy, grid[1] - cx) - radius) < 0.018
        picture[ring] = 20
    return picture


def _photo(rng: np.random.Generator, size: int = 48) -> np.ndarray:
    """A blob of one colour on another, (size, size, 3) uint8."""
    grid = np.mgrid[0:size, 0:size] / size
    cx, cy, radius = rng.uniform((0.35, 0.35, 0.18), (0.65, 0.65, 0.4))
    inside = (np.hypot(grid[0] - cy, grid[1] - cx) < radius)[..., None]
    front, back = rng.integers(40, 220, 3), np.array([245, 245, 245])
    return np.where(inside, front, back).astype(np.uint8)


def _example(rng: np.random.Generator, title: str, right: int | None) -> dict[str, Any]:
    answers = [
        {
            "png": encode_png(_photo(rng)),
            "label": title if place == right else f"thing {place}",
            "correct": place == right,
        }
        for place in range(5)
    ]
    example: dict[str, Any] = {"title": title, "query_png": encode_png(_drawing(rng)), "answers": answers}
    if right == 0:
        example |= {
            "query_wav": encode_wav((8000 * np.sin(np.arange(800) / 5)).astype(np.int16)),
            "remark": "found at once",
        }
    if right is None:
        example |= {"rank": 17, "truth": {"png": encode_png(_photo(rng)), "label": title, "correct": True}}
    return example


def _charts() -> list[dict[str, Any]]:
    """A front and shares, as a task with a choice of canvases draws them."""
    fixed = {"16 px": (1_100_000, 0.19), "24 px": (1_900_000, 0.235), "32 px": (3_300_000, 0.253)}
    points = [
        {"label": label, "x": x, "y": y, "ci95": [y - 0.045, y + 0.047], "group": "one canvas for every sketch"}
        for label, (x, y) in fixed.items()
    ]
    points += [
        {"label": f"lambda_F {value}", "x": x, "y": y, "ci95": [y - 0.04, y + 0.05], "group": "selector",
         "detail": "+0.004 [-0.012, +0.021] over the line"}
        for value, x, y in ((0, 3_500_000, 0.262), (0.1, 2_600_000, 0.249), (EVIL_LABEL, 1_500_000, 0.212))
    ]  # fmt: skip
    front = {
        "title": "Canvases", "text": "The line is what fixed canvases and mixtures of two of them reach.",
        "x": "multiply-accumulates per query", "y": "acc@1", "points": points,
        "lines": {"mixtures of two": list(fixed.values())},
    }  # fmt: skip
    shares = {
        "title": "Chosen canvas by strokes", "text": "The last canvas that a sketch was drawn on.", "x": "strokes",
        "bins": ["1", "2", "3 to 4", "5+"], "counts": [31, 80, 140, 77],
        "parts": {"16 px": [0.7, 0.5, 0.3, 0.1], "24 px": [0.2, 0.3, 0.3, 0.3], "32 px": [0.1, 0.2, 0.4, 0.6]},
    }  # fmt: skip
    return [front, shares]


def details(samples: dict[str, list[float]], student: str = STUDENT) -> dict[str, Any]:
    """A details.json with every section."""
    rng = np.random.default_rng(5)
    channels = [(1, 24, 4, 64), (24, 48, 3, 16), (48, 96, 3, 16), (96, 128, 3, 4), (128, 256, 1, 4)]
    layers = []
    for index, (before, after, kernel, side) in enumerate(channels):
        for op, macs, parameters in (
            ("depthwise conv", before * kernel**2 * side**2, before * kernel**2),
            ("conv", before * after * side**2, before * after),
            ("hardswish", 0, 0),
        ):
            layers.append(
                {
                    "name": f"blocks.{index}.{op.replace(' ', '_')}",
                    "op": op,
                    "macs": macs,
                    "parameters": parameters,
                    "activation_bytes": 4 * after * side**2,
                    "output_shape": [1, after, side, side],
                }
            )
    steps = np.arange(0, 1500, 5)
    noise = rng.normal(0, 0.05, len(steps))
    training: list[dict[str, Any]] = [
        {
            "step": int(s),
            "stage": "distill",
            "loss": float(2.2 * np.exp(-s / 400) + 0.7 + n),
            "lr": float(1e-3 * (1 - s / 1500)),
        }
        for s, n in zip(steps, noise, strict=True)
    ]
    training += [
        {"step": int(s), "stage": "distill", "val_acc@1": float(0.25 * (1 - np.exp(-s / 300)))} for s in steps[::30]
    ]
    training += [{"step": int(s), "stage": "teacher", "loss": float(1.4 * np.exp(-s / 200) + 0.3)} for s in steps[:120]]
    return {
        "schema": 1,
        "layers": {student: {"encoder_32": layers}},
        "latency_samples_ms": samples,
        "teachers": {
            student: {
                "name": "made-up-teacher",
                "macs": 358_000_000,
                "parameters": 3_700_000,
                "bytes": 14_900_000,
                "metric": "acc@1",
                "value": 0.393,
            }
        },
        "devices": {
            "host": "This machine: Made-Up CPU 9000, 2 cores",
            "x86-laptop": "Laptop, made-up four-core CPU, 16 GB",
        },
        "notes": {f"{student}|*|host|openvino|fp16": ["weights fp16, computed in fp32 on this CPU"]},
        "extra_metrics": {
            f"{student}|*|host|{r}|{p}": {"acc@5": 0.51, "acc@10": 0.63} for r in SPEED_MS for p in BYTES
        },
        "timings": {
            f"{student}|*|host|onnx|int8": {"times faster than real time": 78.4, "last picture to text, ms": 11.6}
        },
        "examples": {
            student: [
                _example(rng, "apple", 0),
                _example(rng, "sailing boat", 1),
                _example(rng, EVIL_LABEL, 0),
                _example(rng, "violin", None),
                _example(rng, "hot-air balloon", 2),
                _example(rng, "owl", 0),
            ]
        },
        "against_float": {f"{student}|*|host|onnx|int8": {"difference": -0.016, "ci95": [-0.03, 0.006], "n": 328}},
        "macs": {student: {"encoder_24": 1_340_000, "encoder_32": 830_000, "drawing": 41_000, "search": 126_000}},
        "charts": {student: _charts()},
        "examples_from": {student: "openvino int8 on host"},
        "training": {student: training},
        "credits": [
            {"name": "Made-up drawings", "version": "1.0", "licence": "CC0-1.0", "url": "https://example.org/drawings"},
            {
                "name": EVIL,
                "version": "2",
                "licence": "MIT",
                "url": "javascript:window.pwned=3",
                "note": "a link that is none",
            },
        ],
    }


def write_run(folder: Path, *, with_details: bool = True, student: str = STUDENT, **run: Any) -> Path:
    """Write results.json (and details.json) into `folder`; `run` overrides fields of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    value, samples = results(student)
    value["run"] |= run
    (folder / "results.json").write_text(json.dumps(value))
    if with_details:
        (folder / "details.json").write_text(json.dumps(details(samples, student)))
    return folder / "results.json"


def record(**fields) -> Record:
    required = {"student": "s", "graph": "*", "device": "host", "runtime": "r", "precision_requested": "fp32"}
    return Record.model_validate({**required, "status": "verified", **fields})


def latency(mean, half, p50=None):
    return {
        "p50": p50 or mean, "p90": mean, "p99": mean, "mean": mean, "ci95": [mean - half, mean + half],
        "n": 100, "threads": 1, "warmup": 5,
    }  # fmt: skip


def metric(value, **more):
    base = {
        "name": "acc",
        "n": 100,
        "split": "test",
        "float_value": 0.5,
        "teacher_value": 0.8,
        "higher_is_better": True,
    }
    return {**base, "value": value, "ci95": [value - 0.05, value + 0.05], **more}


def rows(*records: Record):
    return view.rows_of(records, details_module.Details(schema=1))
