"""The images themselves: built by buildah on a base of our own, and run without a network.

The base and the layers of packages stay in the machine's caches, so that only our own files are new from run to run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor.bench import BenchRequest, bench
from compressor.docker import build, run
from profiles.errors import MissingError
from targets.container import images
from targets.container.base import emulation_problem
from tests.tools import need

TOOLS = ("buildah", "mmdebstrap", "unshare", "nsenter", "taskset")


def smoke(image: str) -> dict[str, Any]:
    need(*TOOLS)
    if os.geteuid() != 0:
        pytest.skip("buildah in chroot isolation needs root")
    build(image, "buildah", use_local_base=True)
    report = run(image, "buildah")
    assert report["passed"], report
    assert report["conditions"]["network"] == [] and report["conditions"]["uid"] == 10001
    assert report["conditions"]["pid"] != 1
    return report


@pytest.mark.timeout(1200)  # the first time on a machine: the base and the packages
def test_the_cpu_image_runs_its_smoke_test_and_a_whole_bench_without_a_network(tmp_path: Path) -> None:
    report = smoke("cpu")
    assert {(row["runtime"], row["status"]) for row in report["students"]} == {
        ("onnx", "verified"),
        ("openvino", "verified"),
    }
    (tmp_path / "shop.yaml").write_text(
        "name: shop\nclass: cpu\nsummary: shop\nruntimes:\n  onnx: {precisions: [fp32], options: {threads: 1}}\n"
        "memory: {ram_bytes: 1000000000}\ndocker: cpu\n"
    )
    request = BenchRequest(
        subjects=[str(images.FOLDER / "smoke/bundle")], devices=[str(tmp_path / "shop.yaml")], out=tmp_path / "out",
        command="", runner="docker",
    )  # fmt: skip
    whole = next(record for record in bench(request).records if record.graph == "*")
    assert whole.status == "verified" and whole.ran_on is not None and "in the image cpu" in whole.ran_on.name
    assert whole.task_metric is not None and whole.task_metric.value == 1.0
    assert whole.budget is not None and whole.budget["ram_bytes"].state == "passed"
    (manifest,) = (tmp_path / "out/artifacts").rglob("artifact.json")
    notes = json.loads(manifest.read_text())["graphs"]["net"]["notes"]
    assert any("does not enforce the memory limit of 1000 MB" in note for note in notes)
    assert not any("processors" in note for note in notes)  # taskset enforces that
    left = subprocess.run(["buildah", "containers", "--format", "{{.ContainerName}}"], capture_output=True, text=True)
    assert f"edge-compressor-{os.getpid()}-" not in left.stdout


@pytest.mark.timeout(1200)
def test_the_wearable_image_builds_firmware_and_runs_it_on_the_emulated_core() -> None:
    (row,) = smoke("wearable")["students"]
    assert row["status"] == "verified" and row["ran_on"]["kind"] == "emulator" and "cortex-m4" in row["ran_on"]["name"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_arm64_image_runs_its_smoke_test_as_a_named_processor() -> None:
    if problem := emulation_problem("arm64"):
        pytest.skip(problem)
    report = smoke("mobile-arm64")
    assert report["conditions"]["machine"] == "aarch64" and report["conditions"]["cpu"] == "Cortex-A76"
    assert {(row["runtime"], row["precision"]) for row in report["students"]} == {
        ("onnx", "fp32"),
        ("tflite", "fp32"),
        ("tflite", "int8"),
    }


def test_the_gpu_image_is_reported_as_not_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressor.docker.device_count", lambda: 0)
    with pytest.raises(MissingError, match="image gpu: not run: no NVIDIA GPU") as caught:
        run("gpu")
    assert caught.value.exit_code == 3


def test_the_command_says_in_one_line_what_is_missing() -> None:
    command = [sys.executable, "-m", "compressor", "docker", "run", "toaster"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: toaster: neither an image")
    assert len(done.stderr.splitlines()) == 1
