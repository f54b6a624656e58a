"""Artifacts on emulated Cortex-M boards: what is measured, and how each failure looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiles.device import Device
from profiles.errors import RequestError
from targets import sandbox
from targets.artifact import Artifact
from targets.runners import get_runner, qemu_system
from targets.runners.qemu_system import evaluation_limit
from tests.targets.hand_written import (
    PLUS_ONE,
    PRODUCT,
    SCALES,
    answers,
    product_artifact,
    rows,
    weights_in_c,
    write_artifact,
)
from tests.tools import need


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")


def device(core: str = "m4", memory: dict[str, int] | None = None, **emulator: Any) -> Device:
    return Device.model_validate(
        {
            "name": "board",
            "class": "wearable",
            "summary": "a board",
            "runtimes": {"c": {"precisions": ["int8"]}},
            "memory": memory or {},
            "emulator": {"kind": "qemu_system", "core": core, **emulator},
        }
    )


def broken(path: Path, body: str, **model: Any) -> Artifact:
    return write_artifact(path, body, rows(2), rows(2), **model)


@pytest.mark.parametrize("core", ["m4", "m55"])
def test_an_artifact_runs_on_the_emulated_core_with_its_metric_cost_and_memory(core: str, tmp_path: Path) -> None:
    artifact = product_artifact(tmp_path / "a", optimization="O3")
    found = get_runner("qemu_system").measure(artifact, device(core))
    assert Artifact.open(artifact.path).status == "verified"
    assert found.parity("net").max_abs == 0, "quantised, computed and dequantised as numpy does"
    assert found.ran_on.kind == "emulator"
    board = {"m4": "mps2-an386", "m55": "mps3-an547"}[core]
    assert found.ran_on.name.startswith("qemu-system-arm ") and found.ran_on.name.endswith(f"{board} (cortex-{core})")
    for split, n in (("validation", 30), ("test", 20)):
        evaluation = found.evaluation(split)
        assert evaluation is not None and len(evaluation.scores) == n and evaluation.value == 0
    assert found.latency("net") is None and found.latency() is None and found.peak_bytes is None
    cost, memory = found.cost("net"), found.memory("net")
    assert cost is not None and (cost.kind, cost.source) == ("instructions", "counted")
    assert 8 * 32 / 16 < cost.value < 8 * 32 * 10
    assert memory.arena == memory.ram == 40 and memory.flash is not None and 256 < memory.flash < 2000
    assert memory.stack is not None and memory.stack < 256


def test_optimization_is_the_runtimes_option(tmp_path: Path) -> None:
    body = "#ifdef __OPTIMIZE_SIZE__\nout[0] = 64;\n#else\nout[0] = 32;\n#endif"
    for level, value in (("Os", 1.0), ("O2", 0.5)):
        x, y = rows(2), np.full((2, 1), value, np.float32)
        options = {"optimization": level}
        artifact = write_artifact(tmp_path / level, body, x, y, options=options, scales=(1 / 64, 1 / 64))
        found = get_runner("qemu_system").measure(artifact, device(), splits=())
        assert found.parity("net").max_abs == 0


@pytest.mark.parametrize(
    ("body", "options", "memory", "reason"),
    [
        ('__asm volatile("udf #0");', {}, {}, "usage fault: undefined instruction, pc .* in net_run"),
        (
            "volatile char a[9000]; a[0] = 1; out[0] = a[0];",
            {"stack_bytes": 8192},
            {},
            "stack overflow: .* 8,192 bytes",
        ),
        (PLUS_ONE, {}, {"ram_bytes": 60}, "does not fit the device: needs 4 bytes more than the 60 of RAM"),
        ("out[0] = weights[0][in[0]&1];", {}, {"flash_bytes": 256}, r"does not fit the device: .* 256 of FLASH"),
    ],
)
def test_what_fails_on_the_core_is_one_clear_reason_and_marks_the_artifact(
    body: str, options: dict[str, Any], memory: dict[str, int], reason: str, tmp_path: Path
) -> None:
    artifact = broken(tmp_path / "a", body, before=weights_in_c())
    with pytest.raises(sandbox.SandboxError, match=reason):
        get_runner("qemu_system").measure(artifact, device(memory=memory, **options))
    marked = Artifact.open(artifact.path)
    assert marked.status == "failed" and marked.reason is not None and "\n" not in marked.reason
    assert marked.manifest["graphs"]["net"]["ran_on"]["kind"] == "emulator"


def test_a_hang_ends_at_the_time_limit(tmp_path: Path) -> None:
    artifact = broken(tmp_path / "a", "for (;;) {}")
    with pytest.raises(sandbox.SandboxError, match=r"hangs|time limit of 3 s"):
        get_runner("qemu_system", timeout_s=3).measure(artifact, device())
    assert Artifact.open(artifact.path).status == "failed"


def test_wrong_bytes_are_rejected(tmp_path: Path) -> None:
    x = rows(12)
    artifact = write_artifact(tmp_path / "a", PRODUCT, x, -answers(x), before=weights_in_c(), scales=SCALES)
    get_runner("qemu_system").measure(artifact, device())
    assert artifact.status == "rejected" and "signal to noise" in str(artifact.reason)


def test_a_long_evaluation_is_cut_to_what_the_time_limit_allows_and_says_so() -> None:
    passes = [30, 30, 20]  # validation for queries and metric, test for the metric
    assert evaluation_limit(passes, 1.0, 80.0, None) == (None, None)
    cut = "evaluated on the first 13 of 30 items: all would take about 1 min there"
    assert evaluation_limit(passes, 1.0, 40.0, None) == (13, cut)
    assert evaluation_limit(passes, 1.0, 40.0, 10) == (10, None)
    assert evaluation_limit([], 1.0, 40.0, None) == evaluation_limit([], 1.0, -1.0, None) == (None, None)
    with pytest.raises(RuntimeError, match="one item takes 100 s there: give a longer time limit"):
        evaluation_limit(passes, 100.0, 200.0, None)


def test_what_was_cut_is_measured_on_fewer_items_and_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_system, "_item_s", lambda *_: 10.0)
    artifact = product_artifact(tmp_path / "a")
    # 0.8 x 400 s are 32 items of 10 s, less what the start took, in three passes
    report, arrays = qemu_system.measure_emulated(str(artifact.path), "m4", 4096, None, None, 400.0, {"latency": False})
    assert len(arrays["scores/validation"]) == len(arrays["scores/test"]) == 10
    assert "evaluated on the first 10 of 30 items: " in " ".join(report["graphs"]["net"]["notes"])


def test_requests_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    artifact, runner = broken(tmp_path / "a", PLUS_ONE), get_runner("qemu_system")
    with pytest.raises(RequestError, match="no emulated board has the core 'm0'"):
        runner.measure(artifact, device("m0"))
    with pytest.raises(RequestError, match="unknown emulator option 'cpu': there are core, machine, stack_bytes"):
        runner.measure(artifact, device(cpu="cortex-m4"))
    with pytest.raises(RequestError, match="the core m4 is on the board mps2-an386"):
        runner.measure(artifact, device(machine="mps2-an385"))
    without = Device.model_validate({**device().model_dump(by_alias=True), "emulator": None})
    with pytest.raises(RequestError, match="device board: has no emulator of kind qemu_system"):
        runner.measure(artifact, without)
    artifact.manifest["runtime"] = "onnx"
    with pytest.raises(RequestError, match="qemu_system runs the runtime c, this is onnx"):
        runner.measure(artifact, device())
