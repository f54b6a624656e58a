"""The command line: what a user gets wrong is one line on standard error and the exit code of DESIGN.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from compressor import cli
from profiles.results import Results
from tests.targets import nets
from tests.targets.conftest import shape_bundle, shape_net  # noqa: F401  (fixtures)


class Run:
    """The command in this process: its exit code, and what it printed."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["compressor", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self._capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0 if code is None else 4), out, err

    def fails(self, code: int, *arguments) -> str:
        """The one line of a request that cannot be served."""
        got, out, err = self(*arguments)
        lines = err.strip().splitlines()
        assert got == code, err
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        assert "Traceback" not in err and out == ""
        return lines[0]


@pytest.fixture
def run(monkeypatch, capsys):
    return Run(monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(shape_net, tmp_path_factory) -> Path:  # noqa: F811
    """A trained classifier as a stranger would bring it: an ONNX file and an .npz."""
    import torch

    folder = tmp_path_factory.mktemp("stranger")
    batch = {0: torch.export.Dim("batch")}
    example = torch.zeros(2, 1, nets.SIZE_PX, nets.SIZE_PX)
    program = torch.onnx.export(shape_net, (example,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    program.save(folder / "model.onnx")
    images, truth = nets.shapes(200, seed=9)
    np.savez(folder / "inputs.npz", **{program.model.graph.inputs[0].name: images}, targets=truth)
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def benched(model, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One real run of the main job on the stranger's model, in a process of its own."""
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "compressor", "bench", str(model), "--device", "host", "--json"]
    options = ["--data", str(model.with_name("inputs.npz")), "--metric", "top1", "--out", str(out)]
    options += ["--runtime", "onnx", "--runtime", "openvino"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    return out, done


def test_bench_of_a_strangers_model_verifies_every_row_and_writes_the_page(benched):
    out, done = benched
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "results.json").read_text())
    results = Results.load(out / "results.json")
    whole = [record for record in results.records if record.graph == "*"]
    assert {(r.runtime, r.precision_requested) for r in whole} == {
        (runtime, precision) for runtime in ("onnx", "openvino") for precision in ("fp32", "fp16", "int8")
    }
    for record in whole:
        assert record.status == "verified", record.reason
        assert record.task_metric.name == "top1" and record.task_metric.n == 100
        assert record.task_metric.value > 0.9
        assert record.latency_ms.n >= 50 and record.memory_bytes.peak > 0
        assert record.artifact_bytes == sum(
            file.stat().st_size for file in (Path(record.artifact_path) / "graphs").rglob("*") if file.is_file()
        )
    # by hand: stem 16x16x16x9; depthwise 9 per value and pointwise, at 8x8, 8x8 and 4x4; the head
    macs = 256 * 16 * 9 + 64 * (16 * 9 + 16 * 32) + 64 * (32 * 9 + 32 * 32) + 16 * (32 * 9 + 32 * 64) + 64 * 4
    assert {record.macs for record in results.records} == {macs}
    assert (out / "report.html").stat().st_size > 10_000


def test_verify_runs_the_golden_inputs_again(benched, run):
    artifact = benched[0] / "artifacts" / "model" / "host" / "onnx-int8"
    code, out, _ = run("verify", artifact, "--device", "host", "--json")
    assert code == 0
    assert [row["status"] for row in json.loads(out)] == ["verified"]


def test_evaluate_an_artifact_gives_the_metric_of_the_compiled_file(benched, run):
    artifact = benched[0] / "artifacts" / "model" / "host" / "openvino-int8"
    code, out, _ = run("evaluate", artifact, "--split", "test", "--json")
    whole = [r for r in Results.load(benched[0] / "results.json").records if r.graph == "*"]
    (record,) = [r for r in whole if r.runtime == "openvino" and r.precision_requested == "int8"]
    assert code == 0
    assert json.loads(out)["value"] == pytest.approx(record.task_metric.value)


def test_compare_finds_no_regression_against_itself_and_one_in_a_worse_file(benched, run, tmp_path):
    results = benched[0] / "results.json"
    assert run("compare", results, results)[0] == 0
    worse = json.loads(results.read_text())
    for record in worse["records"]:
        record["artifact_bytes"] = record["artifact_bytes"] * 2
    (tmp_path / "worse.json").write_text(json.dumps(worse))
    assert run("compare", tmp_path / "worse.json", results)[0] == 1


def test_profile_lists_every_layer(model, run):
    code, out, _ = run("profile", model, "--json")
    (costs,) = json.loads(out).values()
    assert code == 0
    assert sum(layer["macs"] or 0 for layer in costs["layers"]) == costs["macs"]


def test_compile_writes_artifacts_that_say_they_were_not_run(model, run, tmp_path):
    code, out, _ = run(
        "compile", model, "--device", "host", "--runtime", "onnx", "--precision", "fp32", "--out", tmp_path, "--json"
    )
    (row,) = json.loads(out)
    assert code == 0
    assert row["status"] == "built" and "compressor verify" in row["reason"]


def test_unknown_names_are_named_with_the_nearest(run, shape_bundle, tmp_path):  # noqa: F811
    assert "sketch" in run.fails(2, "distill", "sketsh", "--out", tmp_path)
    assert "host" in run.fails(2, "bench", shape_bundle.path, "--device", "hots", "--out", tmp_path)
    assert "distill" in run.fails(2, "distill", "sketch", "stages.distil.steps=3", "--out", tmp_path)
    assert "tflit" in run.fails(2, "bench", shape_bundle.path, "--device", "host", "--runtime", "tflit")
    assert "fp23" in run.fails(2, "bench", shape_bundle.path, "--device", "host", "--precision", "fp23")
    assert "openmoij" in run.fails(2, "data", "fetch", "openmoij")
    assert "evaluates" in run.fails(2, "evaluates", shape_bundle.path)
    assert "--devise" in run.fails(2, "bench", shape_bundle.path, "--devise", "host")
    assert "--device" in run.fails(2, "bench", shape_bundle.path, "--out", tmp_path)
    assert "train" in run.fails(2, "evaluate", shape_bundle.path, "--split", "train")
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_what_they_should_be(run, model, tmp_path):
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(model.read_bytes()[:-1000])
    (tmp_path / "broken.npz").write_bytes(b"PK not really")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.yaml").write_text("name: [")
    to = ("--device", "host", "--out", tmp_path / "out")
    assert "truncated.onnx" in run.fails(2, "bench", truncated, *to)
    assert "missing.onnx" in run.fails(2, "bench", tmp_path / "missing.onnx", *to)
    assert "broken.npz" in run.fails(2, "bench", model, "--data", tmp_path / "broken.npz", "--metric", "top1", *to)
    assert "broken.json" in run.fails(2, "report", tmp_path / "broken.json")
    assert "broken.yaml" in run.fails(
        2, "bench", model, "--device", tmp_path / "broken.yaml", "--out", tmp_path / "out"
    )
    assert "broken.yaml" in run.fails(2, "distill", tmp_path / "broken.yaml", "--out", tmp_path / "out")


def test_a_program_of_another_version_is_refused(run, shape_bundle, tmp_path):  # noqa: F811
    source = shape_bundle.program("net")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "other.pt2", "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("models/model.json"):
                program = json.loads(content)
                program["schema_version"]["major"] += 1
                program["torch_version"] = "9.9.0"
                content = json.dumps(program).encode()
            new.writestr(item.filename, content)
    line = run.fails(2, "bench", tmp_path / "other.pt2", "--device", "host", "--out", tmp_path / "out")
    assert "other.pt2" in line and "9.9.0" in line


def test_a_changed_byte_in_a_bundle_or_artifact_is_named(run, benched, shape_bundle, tmp_path):  # noqa: F811
    copy = tmp_path / "bundle"
    shutil.copytree(shape_bundle.path, copy)
    onnx = next(copy.rglob("*.onnx"))
    content = bytearray(onnx.read_bytes())
    content[len(content) // 2] ^= 1
    onnx.write_bytes(content)
    assert onnx.name in run.fails(2, "bench", copy, "--device", "host", "--out", tmp_path / "out")
    artifact = tmp_path / "artifact"
    shutil.copytree(benched[0] / "artifacts" / "model" / "host" / "onnx-fp32", artifact)
    file = next(path for path in (artifact / "graphs").rglob("*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert file.name in run.fails(2, "verify", artifact, "--device", "host")


def test_a_wrong_name_is_said_before_the_right_ones_are_measured(run, shape_bundle, tmp_path):  # noqa: F811
    line = run.fails(2, "bench", shape_bundle.path, "int8", "--device", "host", "--out", tmp_path / "out")
    assert "recipe int8: unknown" in line and not (tmp_path / "out").exists()


def test_int8_without_data_is_refused_by_name_and_a_row_otherwise(run, model, tmp_path):
    line = run.fails(2, "bench", model, "--device", "host", "--precision", "int8", "--out", tmp_path / "a")
    assert "int8 needs --data" in line
    code, out, _ = run("bench", model, "--device", "host", "--runtime", "onnx", "--out", tmp_path / "b", "--json")
    rows = {r["precision_requested"]: r for r in json.loads(out)["records"] if r["graph"] == "*"}
    assert code == 0
    assert rows["int8"]["status"] == "unsupported" and "--data" in rows["int8"]["reason"]
    assert rows["fp32"]["status"] == "verified" and rows["fp32"]["task_metric"] is None


def test_a_precision_asked_for_by_name_that_fails_is_exit_code_1(run, tmp_path):
    """Weights that overflow in fp16: the file is built, and rejected."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e4).abs_()
        net[2].weight.mul_(1e3)
    example = torch.ones(2, 8)
    program = torch.onnx.export(
        net, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    program.save(tmp_path / "loud.onnx")
    np.savez(tmp_path / "ones.npz", **{program.model.graph.inputs[0].name: np.ones((40, 8), np.float32)})
    arguments = ("bench", tmp_path / "loud.onnx", "--device", "host", "--runtime", "onnx", "--precision", "fp16")
    code, out, _ = run(*arguments, "--data", tmp_path / "ones.npz", "--out", tmp_path / "out", "--json")
    (whole,) = [record for record in json.loads(out)["records"] if record["graph"] == "*"]
    assert code == 1
    assert whole["status"] == "rejected" and whole["reason"]


@pytest.mark.slow
def test_timm_names_give_cost_only_when_the_weights_are_random(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    arguments = ("bench", "timm:test_efficientnet", "--device", "host", "--runtime", "onnx", "--precision", "fp32")
    code, out, err = run(*arguments, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert all(record["task_metric"] is None for record in json.loads(out)["records"])
    assert "weights are random" in err
    assert "timm:mobilnet" in run.fails(2, "bench", "timm:mobilnet", "--device", "host", "--out", tmp_path / "o2")


def test_a_full_disk_is_one_line_and_exit_code_3_and_leaves_no_half_artifact(run, shape_bundle, tmp_path):  # noqa: F811
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mounted.returncode:
        reason = f"no small disk to fill: {mounted.stderr.strip()} (mount needs root)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    try:
        arguments = ("--device", "host", "--runtime", "onnx", "--precision", "fp32", "--out", small)
        line = " ".join(run("bench", shape_bundle.path, *arguments)[2].splitlines()[-1:])
        assert "no space left" in line
        assert run("bench", shape_bundle.path, *arguments)[0] == 3
        assert not list(small.rglob("artifact.json"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
