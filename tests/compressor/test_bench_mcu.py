"""The main job for microcontrollers: one command from a trained network to a table of what it costs on the core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor import records
from compressor.bench import verify
from profiles.device import Device, load_device
from profiles.errors import MissingError
from profiles.flops import count_onnx
from profiles.results import RanOn, Record, Results
from targets.artifact import Artifact
from targets.bundle import Bundle
from targets.measurement import Measurement
from tests.targets.conftest import small_bundle, small_net  # noqa: F401  (fixtures)
from tests.tools import need, need_module


@pytest.fixture(scope="module")
def imu(small_bundle: Callable[[str], Bundle]) -> Bundle:  # noqa: F811
    return small_bundle("imu")


@pytest.fixture(scope="module")
def benched(imu: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    need("arm-none-eabi-gcc", "qemu-system-arm")
    need_module("litert_torch", "ai_edge_quantizer", "ethosu")
    out = tmp_path_factory.mktemp("mcu")
    devices = ["--device", "cortex-m4", "--device", "ethos-u85"]
    command = [sys.executable, "-m", "compressor", "bench", str(imu.path), *devices, "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})


def record_of(out: Path, device: str, graph: str = "*") -> Record:
    records = Results.load(out / "results.json").records
    (record,) = [record for record in records if (record.device, record.graph) == (device, graph)]
    return record


def test_one_table_has_flash_ram_stack_instructions_parity_and_the_metric_of_the_emulated_core(benched, imu):
    out, done = benched
    assert done.returncode == 0, done.stderr
    for word in ("c int8", "verified", "instructions", "flash", "RAM", "stack", "top1 on 64 test items", "emulated by"):
        assert word in done.stdout
    assert "p50 ms" not in done.stdout
    parity = record_of(out, "cortex-m4", "imu").parity
    assert parity is not None and parity.sqnr_db is not None and parity.sqnr_db >= 20
    record = record_of(out, "cortex-m4")
    assert (record.status, record.latency_ms) == ("verified", None)
    assert record.ran_on is not None and record.ran_on.kind == "emulator" and "cortex-m4" in record.ran_on.name
    assert record.cost is not None and (record.cost.kind, record.cost.source) == ("instructions", "counted")
    macs = count_onnx(imu.source("imu").onnx).macs
    assert 0.5 * macs < record.cost.value < 10 * macs  # two products per instruction at most; 8.0 was the scalar pilot
    memory = record.memory_bytes
    assert memory is not None and memory.peak is None
    assert memory.flash and memory.ram and memory.arena and memory.stack
    assert memory.arena <= memory.ram and imu_weights(imu) < memory.flash < 4 * imu_weights(imu)
    assert record.task_metric is not None and record.task_metric.n == 64 and record.task_metric.value >= 0.9
    assert {name: state.state for name, state in (record.budget or {}).items()} == {
        "instructions": "passed", "arena_bytes": "passed", "metric_drop": "passed", "flash_bytes": "passed",
        "ram_bytes": "passed",
    }  # fmt: skip


def imu_weights(imu: Bundle) -> int:
    """Bytes of the weights in int8: one each."""
    return count_onnx(imu.source("imu").onnx).parameters


def test_verify_counts_the_same_instructions_again(benched):
    out, _ = benched
    record = record_of(out, "cortex-m4")
    (row,) = verify(out / "artifacts/imu/cortex-m4/c-int8", [], None)
    assert row["status"] == "verified" and row["ran_on"].startswith("emulator ")
    assert record.cost is not None and record.memory_bytes is not None
    assert row["instructions"] == round(record.cost.value)
    assert (row["flash_bytes"], row["stack_bytes"]) == (record.memory_bytes.flash, record.memory_bytes.stack)


def test_a_limit_of_the_device_that_is_missed_rejects(benched, imu):
    """The gates read what was counted; an estimate would leave them unknown."""
    out, _ = benched
    artifact = Artifact.open(out / "artifacts/imu/cortex-m4/c-int8")
    subject = records.Subject(imu, {"imu": count_onnx(imu.source("imu").onnx)}, {})
    profile = load_device("cortex-m4").model_dump(by_alias=True, exclude_none=True)

    def judged(source: str, **budget: float) -> Record:
        device = Device.model_validate({**profile, "budget": budget})
        report = {
            "graphs": {
                "imu": {
                    "parity": artifact.manifest["graphs"]["imu"]["parity"], "failure": None, "latency": None,
                    "cost": {"kind": "instructions", "value": 500_000.0, "source": source},
                    "memory": {"arena": 2000, "flash": 13_000, "ram": 2000, "stack": 252},
                }
            },
            "query": {"calls": {"imu": 2.0}, "latency": None}, "metrics": {}, "peak_bytes": None,
        }  # fmt: skip
        found = Measurement(report, {}, {}, RanOn(kind="emulator", name="q"), "real")
        return records.measured(subject, device, artifact, found, "test")[-1]

    assert judged("counted", instructions=1_000_000).status == "verified"
    slow = judged("counted", instructions=999_999)
    assert slow.status == "rejected" and slow.reason == "instructions is 1e+06, the device's budget is 999999"
    assert (judged("estimated", instructions=999_999).budget or {})["instructions"].state == "unknown"
    assert judged("counted", arena_bytes=1999).status == "rejected"


def test_what_cannot_run_here_is_built_with_its_estimate_and_the_command_for_the_device(benched):
    """It is no reason for another exit code than 0, and no limit is called kept."""
    out, done = benched
    record = record_of(out, "ethos-u85")
    assert (record.status, record.ran_on, record.parity, record.task_metric) == ("built", None, None, None)
    assert record.reason is not None and "FVP_Corstone_SSE-320" in record.reason and "num_macs=256" in record.reason
    assert record.cost is not None and (record.cost.kind, record.cost.source) == ("npu_cycles", "estimated")
    assert record.memory_bytes is not None and record.memory_bytes.arena and record.memory_bytes.flash
    assert {state.state for state in (record.budget or {}).values()} == {"unknown"}
    assert "NPU cycles" in done.stdout and "(estimated)" in done.stdout
    with pytest.raises(MissingError, match="nothing on this machine runs an Ethos-U"):
        verify(out / "artifacts/imu/ethos-u85/ethos-u-int8", [], None)
