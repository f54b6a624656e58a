"""results.json: the contract's fields, checked reading, comparison with a baseline."""

from __future__ import annotations

import json
from typing import Any

import pytest

from profiles.compare import compare, passes
from profiles.errors import RequestError
from profiles.results import Results

RECORD: dict[str, Any] = {
    "student": "sketch", "graph": "*", "device": "host", "runtime": "onnx", "runtime_version": "1.0",
    "precision_requested": "int8", "precision": "int8", "status": "verified", "reason": None,
    "ran_on": {"kind": "host", "name": "host"}, "artifact_path": "a", "artifact_bytes": 1000, "artifact_sha256": "0",
    "batch": 1, "input_shapes": {"x": [1, 3]}, "macs": 1e6, "flops": 2e6, "parameters": 100, "uncounted_ops": {},
    "latency_ms": {"p50": 1, "p90": 1, "p99": 1, "mean": 1.0, "ci95": [0.98, 1.02], "n": 50, "threads": 1, "warmup": 5},
    "cost": {"kind": "instructions", "value": 5000, "source": "counted"},
    "memory_bytes": {"peak": 10_000, "arena": None, "flash": None, "ram": None, "stack": None},
    "parity": {"max_abs": 0, "cosine_min": 1, "sqnr_db": 40, "agreement": 1, "n": 8, "inputs": "real"},
    "task_metric": {
        "name": "acc@1", "value": 0.60, "ci95": [0.57, 0.63], "n": 300, "split": "test", "float_value": 0.61,
        "teacher_value": 0.7, "higher_is_better": True,
    },
    "budget": {"latency_ms": {"limit": 5, "value": 1, "state": "passed"}},
}  # fmt: skip
RUN = {
    "command": "compressor bench", "commit": None, "date": "2026-11-24", "versions": {},
    "host": {"cpu": "AMD EPYC", "machine": "x86_64", "cores": 2},
}  # fmt: skip


def _json(*records: dict[str, Any], run: dict[str, Any] = RUN) -> dict[str, Any]:
    return {"schema": 1, "run": run, "records": list(records)}


def _results(*records: dict[str, Any], run: dict[str, Any] = RUN) -> Results:
    return Results.model_validate(_json(*records, run=run))


def _changed(**changes: Any) -> dict[str, Any]:
    """RECORD with changes; a key "a.b" reaches into a part."""
    record = json.loads(json.dumps(RECORD))
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            record[outer][inner] = value
        else:
            record[outer] = value
    return record


def _severities(record: dict[str, Any], **options: Any) -> dict[str, str]:
    findings = compare(_results(record), _results(RECORD), **options)
    return {finding.quantity: finding.severity for finding in findings}


def test_the_file_has_the_fields_of_the_contract_and_comes_back_unchanged(tmp_path):
    path = tmp_path / "results.json"
    _results(RECORD).write(path)
    assert json.loads(path.read_text()) == _json(RECORD)
    assert Results.load(path) == _results(RECORD)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a results.json of schema 1"),
        (json.dumps({**_json(), "schema": 2}), r"schema 1 \(schema: 2\)"),
        (json.dumps({**_json(), "extra": 1}), "extra: unknown key"),
        (json.dumps(_json({**RECORD, "status": "fine"})), "records.0.status: Input should be"),
        (json.dumps(_json({k: v for k, v in RECORD.items() if k != "student"})), "records.0.student: is missing"),
        (json.dumps(_json(_changed(latency_ms__mean="fast"))), "records.0.latency_ms.mean"),
        (json.dumps(_json({**RECORD, "macs": float("nan")})), "records.0.macs"),
    ],
)
def test_a_wrong_file_is_one_line_with_file_and_key(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=message) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        Results.load(tmp_path / "none.json")


def test_the_same_results_have_no_findings():
    assert compare(_results(RECORD), _results(RECORD)) == []
    assert passes([])


def test_a_worse_status_is_a_regression_and_a_better_one_an_improvement():
    assert _severities(_changed(status="rejected", reason="parity")) == {"status": "regression"}
    findings = compare(_results(RECORD), _results(_changed(status="rejected")))
    assert [(f.severity, f.before, f.after) for f in findings] == [("improvement", "rejected", "verified")]


def test_a_record_that_is_gone_is_a_regression_and_a_new_one_is_not():
    other = {**RECORD, "precision_requested": "fp32"}
    gone = compare(_results(RECORD), _results(RECORD, other))
    assert [(f.severity, f.quantity, f.precision) for f in gone] == [("regression", "record", "fp32")]
    assert not passes(gone)
    new = compare(_results(RECORD, other), _results(RECORD))
    assert [f.severity for f in new] == ["info"]
    assert passes(new)


@pytest.mark.parametrize(
    ("field", "quantity", "before"),
    [
        ("artifact_bytes", "artifact_bytes", 1000),
        ("macs", "macs", 1_000_000),
        ("parameters", "parameters", 100),
        ("cost__value", "cost.instructions.counted", 5000),
        ("memory_bytes__peak", "memory_bytes.peak", 10_000),
    ],
)
def test_a_cost_regresses_beyond_the_tolerance_and_not_at_it(field, quantity, before):
    assert _severities(_changed(**{field: round(before * 1.05)})) == {}
    assert _severities(_changed(**{field: round(before * 1.06)})) == {quantity: "regression"}
    assert _severities(_changed(**{field: round(before * 0.9)})) == {quantity: "improvement"}
    assert _severities(_changed(**{field: round(before * 1.2)}), tolerance=0.25) == {}


def test_an_estimate_is_not_compared_with_a_count():
    severities = _severities(_changed(cost__source="estimated", cost__value=9999))
    assert severities == {"cost.instructions.counted": "info", "cost.instructions.estimated": "info"}


def test_latency_regresses_only_beyond_tolerance_and_interval():
    assert _severities(_changed(latency_ms__mean=1.03, latency_ms__ci95=[1.025, 1.035])) == {}
    assert _severities(_changed(latency_ms__mean=1.5, latency_ms__ci95=[1.0, 2.0])) == {"latency_ms": "info"}
    assert _severities(_changed(latency_ms__mean=1.5, latency_ms__ci95=[1.4, 1.6])) == {"latency_ms": "regression"}
    assert _severities(_changed(latency_ms__mean=0.5, latency_ms__ci95=[0.4, 0.6])) == {"latency_ms": "improvement"}


def test_latency_is_not_compared_across_hosts_threads_or_batches():
    slow = _changed(latency_ms__mean=9.0, latency_ms__ci95=[8.0, 10.0])
    elsewhere = {**RUN, "host": {**RUN["host"], "cpu": "Cortex-A76"}}
    findings = compare(_results(slow), _results(RECORD, run=elsewhere))
    assert [(f.severity, f.quantity) for f in findings] == [("info", "latency_ms")]
    assert "different hosts" in findings[0].message
    assert _severities({**slow, "batch": 8}) == {"latency_ms": "info"}
    slow["latency_ms"]["threads"] = 2
    assert _severities(slow) == {"latency_ms": "info"}


def test_a_metric_regresses_beyond_the_interval_of_the_difference():
    # Half widths .03 and .03: the difference has .0424.
    assert _severities(_changed(task_metric__value=0.56, task_metric__ci95=[0.53, 0.59])) == {"task_metric": "info"}
    assert _severities(_changed(task_metric__value=0.55, task_metric__ci95=[0.52, 0.58])) == {
        "task_metric": "regression"
    }
    assert _severities(_changed(task_metric__value=0.65, task_metric__ci95=[0.62, 0.68])) == {
        "task_metric": "improvement"
    }
    small = _changed(task_metric__value=0.55, task_metric__ci95=[0.52, 0.58])
    assert _severities(small, metric_tolerance=0.06) == {}


def test_an_error_rate_that_rises_is_a_regression():
    base = _changed(task_metric__higher_is_better=False)
    worse = _changed(task_metric__higher_is_better=False, task_metric__value=0.7, task_metric__ci95=[0.67, 0.73])
    assert [f.severity for f in compare(_results(worse), _results(base))] == ["regression"]


def test_a_metric_that_is_no_longer_measured_is_a_regression_and_another_metric_is_not_compared():
    assert _severities(_changed(task_metric=None)) == {"task_metric": "regression"}
    assert _severities(_changed(task_metric__name="acc@5", task_metric__value=0.1)) == {"task_metric": "info"}
    assert _severities(_changed(task_metric__split="validation", task_metric__value=0.1)) == {"task_metric": "info"}


def test_a_number_that_disappeared_is_said():
    assert _severities(_changed(macs=None, latency_ms=None)) == {"macs": "info", "latency_ms": "info"}


def test_findings_come_regressions_first_and_do_not_depend_on_the_order_of_the_files():
    records = [_changed(precision_requested=p, macs=m) for p, m in [("fp32", 5e5), ("fp16", 2e6), ("int8", 3e6)]]
    base = [_changed(precision_requested=p) for p in ("fp32", "fp16", "int8")]
    forwards = compare(_results(*records), _results(*base))
    assert forwards == compare(_results(*reversed(records)), _results(*reversed(base)))
    assert [(f.severity, f.precision) for f in forwards] == [
        ("regression", "fp16"), ("regression", "int8"), ("improvement", "fp32"),
    ]  # fmt: skip
    assert json.dumps([finding.to_json() for finding in forwards])
