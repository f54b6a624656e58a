from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import targets
from profiles.device import Device, load_device
from profiles.errors import RequestError
from targets import artifact as artifact_module
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.export import BundleWriter
from targets.runners import get_runner
from targets.sandbox import SandboxError
from targets.target import CompiledGraph, get_target
from tests.targets import nets
from tests.targets.conftest import write_single


@pytest.fixture(scope="module")
def device() -> Device:
    """This machine, with one thread."""
    host = load_device("host").model_dump(by_alias=True)
    for profile in host["runtimes"].values():
        profile["options"] = {"threads": 1}
    return Device.model_validate(host)


@pytest.fixture(scope="module", params=[("onnx", "fp32"), ("openvino", "int8")], ids="-".join)
def built(
    request: pytest.FixtureRequest, shape_bundle: Bundle, device: Device, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    runtime, precision = request.param
    return compile_bundle(shape_bundle, device, runtime, precision, tmp_path_factory.mktemp("artifact") / "a")


def test_from_bundle_to_artifact_to_student(built: Artifact, shape_bundle: Bundle) -> None:
    assert built.status in ("built", "verified") and built.reason is None
    images, truth = nets.shapes(64, seed=11)
    arrays = {"inputs/canvas": images, "targets": truth}
    reference, student = targets.load(shape_bundle.path), targets.load(built.path)
    assert abs(student.evaluate(arrays).value - reference.evaluate(arrays).value) <= 0.05
    expected = np.stack([reference({"canvas": image})["logits"] for image in images])
    found = np.stack([student({"canvas": image})["logits"] for image in images])
    if built.precision_requested == "fp32":
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        assert 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()) >= 20
    with pytest.raises(RequestError, match="compiled for"):
        targets.load(built.path, runtime="tflite")


def test_the_manifest_says_what_was_asked_and_got(built: Artifact, shape_bundle: Bundle) -> None:
    manifest = json.loads((built.path / "artifact.json").read_text())
    entry = manifest["graphs"]["net"]
    assert manifest["bundle"]["sha256"] == shape_bundle.sha256
    assert manifest["device"] == "host" and manifest["options"] == {"threads": 1}
    assert entry["precision"] == manifest["precision_requested"]
    assert manifest["runtime_version"] == get_target(built.runtime).version()
    assert entry["bytes"] == built.bytes == sum(path.stat().st_size for path in built.files("net"))
    assert set(manifest["files"]) >= {f"graphs/net/{path.name}" for path in built.files("net")} | {"golden.npz"}
    if built.precision_requested == "int8":
        assert entry["quantization"]["samples"] == 128 and "float_operators" in entry


def test_a_changed_byte_is_refused_by_name(built: Artifact, tmp_path: Path) -> None:
    shutil.copytree(built.path, tmp_path / "copy")
    file = tmp_path / "copy" / "graphs" / "net" / built.files("net")[0].name
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RequestError, match=f"{file.name}: changed"):
        Artifact.open(tmp_path / "copy")


def test_an_artifact_needs_neither_bundle_nor_torch(built: Artifact, tmp_path: Path) -> None:
    """It is copied elsewhere and measured in a process where torch cannot be imported."""
    from targets import sandbox

    shutil.copytree(built.path, tmp_path / "device")
    keywords = {"artifact": str(tmp_path / "device"), "latency": False}
    result = sandbox.call("tests.targets.without_torch:measure", keywords)
    assert result.value["graphs"]["net"]["failure"] is None
    assert result.value["metrics"]["test"]["n"] == 64


def test_the_local_runner_measures_everything(built: Artifact, device: Device, shape_bundle: Bundle) -> None:
    measurement = get_runner("local").measure(built, device, latency_seconds=0.3, min_samples=20)
    assert measurement.failure("net") is None
    parity = measurement.parity("net")
    assert parity.n == 32 and parity.inputs == "real"
    for graph in ("net", "*"):
        latency, samples = measurement.latency(graph), measurement.samples_ms(graph)
        assert latency is not None and samples is not None
        assert latency.threads == 1 and latency.n == len(samples)
        assert latency.p50 == pytest.approx(np.median(samples)) and 0 < latency.p50 < 100
    assert measurement.calls == {"net": 1.0}
    float_scores = targets.load(shape_bundle.path).evaluate("test").scores
    evaluation = measurement.evaluation("test")
    assert evaluation is not None and evaluation.name == "top1" and evaluation.higher_is_better
    assert abs(evaluation.value - float_scores.mean()) <= 0.05 and len(evaluation.scores) == 64
    assert 20e6 < measurement.peak_bytes < 1e9 and measurement.graph_peak_bytes == {"net": measurement.peak_bytes}
    assert measurement.ran_on.kind == "host"
    again = Artifact.open(built.path)
    assert again.status == "verified" and again.manifest["graphs"]["net"]["parity"]["inputs"] == "real"
    assert again.manifest["graphs"]["net"]["ran_on"]["kind"] == "host"
    assert again.sha256 == built.sha256


def test_latency_is_not_measured_for_a_device_that_this_is_not(built: Artifact, device: Device) -> None:
    values = {**device.model_dump(by_alias=True), "name": "elsewhere", "matches": {"machine": "z80", "cpu": None}}
    measurement = get_runner("local").measure(built, Device.model_validate(values), splits=())
    assert measurement.latency("net") is None and measurement.latency("*") is None
    assert measurement.failure("net") is None


def test_a_crash_while_compiling_is_a_status_with_the_signal_s_name(
    shape_bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_module.sandbox, "call", _redirect(artifact_module.sandbox.call, "compile_graph"))
    made = compile_bundle(shape_bundle, device, "onnx", "fp32", tmp_path / "a")
    assert made.status == "failed" and made.files("net") == ()
    assert made.reason == "net: killed by signal 11 (SIGSEGV) while compiling net with onnx in fp32"
    with pytest.raises(RequestError, match="was not compiled"):
        made.student()


def test_a_graph_that_the_runtime_cannot_have_fails_its_artifact_and_not_the_run(tmp_path: Path) -> None:
    class Exponential(nn.Module):
        """Has an operator that the quantiser leaves in float, which shows when it is done."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x)

    x = np.random.default_rng(0).random((8, 6)).astype(np.float32)
    made = compile_bundle(
        write_single(tmp_path / "b", Exponential(), {"x": x}, ("y",)),
        load_device("ethos-u85"),
        "ethos-u",
        "int8",
        tmp_path / "a",
    )
    assert made.status == "failed" and made.files("net") == ()
    assert made.reason is not None and "1 stayed float: EXP" in made.reason and "\n" not in made.reason


def test_a_crash_while_opening_is_tried_again_with_caution(
    shape_bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = artifact_module.sandbox.call, []

    def once(function: str, kwargs: dict[str, Any], **more: Any) -> Any:
        if function.endswith("open_graph"):
            calls.append(kwargs["options"])
            if len(calls) == 1:
                return real("tests.targets.crashers:segfault", {}, **more)
        return real(function, kwargs, **more)

    monkeypatch.setattr(artifact_module.sandbox, "call", once)
    made = compile_bundle(shape_bundle, device, "onnx", "fp32", tmp_path / "a")
    entry = made.manifest["graphs"]["net"]
    assert made.status == "built" and entry["options"] == {"threads": 1, "optimization": "extended"}
    assert "SIGSEGV" in entry["notes"][0]


def test_one_graph_that_fails_leaves_the_others_measured(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = nets.seeded(nets.Small), {"canvas": nets.shapes(4, seed=0)[0]}
    with BundleWriter(tmp_path / "b", student="two", task="model", glue="model") as writer:
        for name in ("good", "bad"):
            writer.add_graph(name, net, x, ("logits",), weights="shared")
            writer.golden(name, x)
        writer.uses({"query": {"good": 1, "bad": 1}})
        writer.settings({"graph": "good", "metric": None})
    real = artifact_module.sandbox.call

    def call(function: str, kwargs: dict[str, Any], **more: Any) -> Any:
        if function.endswith("compile_graph") and kwargs["graph"] == "bad":
            return real("tests.targets.crashers:segfault", {}, **more)
        return real(function, kwargs, **more)

    monkeypatch.setattr(artifact_module.sandbox, "call", call)
    made = compile_bundle(Bundle.open(tmp_path / "b"), device, "onnx", "fp32", tmp_path / "a")
    measurement = get_runner("local").measure(made, device, latency_seconds=0.1)
    states = {name: entry["status"] for name, entry in Artifact.open(made.path).manifest["graphs"].items()}
    assert states == {"good": "verified", "bad": "failed"} and made.status == "failed"
    assert measurement.latency("good") is not None and measurement.latency("*") is None
    assert list(measurement.graph_peak_bytes) == ["good"]


def test_a_run_that_crashes_marks_the_artifact(
    shape_bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = compile_bundle(shape_bundle, device, "onnx", "fp32", tmp_path / "a")
    monkeypatch.setattr(artifact_module.sandbox, "call", _redirect(artifact_module.sandbox.call, "measure"))
    with pytest.raises(SandboxError, match="SIGSEGV"):
        get_runner("local").measure(made, device)
    assert Artifact.open(tmp_path / "a").status == "failed"


def test_a_file_that_is_known_to_be_wrong_is_rejected(
    shape_bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(function: str, kwargs: dict[str, Any], **more: Any) -> Any:
        (Path(kwargs["out"]) / "model.onnx").write_bytes(b"file")
        from dataclasses import asdict

        return artifact_module.sandbox.Result(asdict(CompiledGraph(("model.onnx",), "fp16", problem="it overflows")))

    monkeypatch.setattr(artifact_module.sandbox, "call", compiled)
    made = compile_bundle(shape_bundle, device, "onnx", "fp16", tmp_path / "a")
    assert made.status == "rejected" and made.reason == "net: it overflows"


def test_a_graph_that_gives_no_files_is_unsupported_with_the_targets_reason(
    shape_bundle: Bundle, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(function: str, kwargs: dict[str, Any], **more: Any) -> Any:
        from dataclasses import asdict

        return artifact_module.sandbox.Result(asdict(CompiledGraph((), "int8", problem="there is no C for FFT")))

    monkeypatch.setattr(artifact_module.sandbox, "call", compiled)
    made = compile_bundle(shape_bundle, device, "onnx", "int8", tmp_path / "a")
    assert made.status == "unsupported" and made.reason == "net: there is no C for FFT"
    assert made.manifest["graphs"]["net"]["bytes"] is None and made.bytes == 0


def test_wrong_requests_are_one_line(device: Device, tmp_path: Path, shape_bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="has no runtime 'ethos-u'"):
        compile_bundle(shape_bundle, device, "ethos-u", "fp32", tmp_path / "a")
    with pytest.raises(RequestError, match="unknown runner"):
        get_runner("telepathy")


def test_int8_without_calibration_is_refused_before_any_work(device: Device, tmp_path: Path) -> None:
    x = np.zeros((2, 3), np.float32)

    import torch

    bundle = write_single(tmp_path / "b", torch.nn.Linear(3, 2), {"input": x}, ("y",))
    bundle._calibration.clear()
    with pytest.raises(RequestError, match="int8 needs --data"):
        compile_bundle(bundle, device, "onnx", "int8", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def _redirect(real: Any, name: str) -> Any:
    """A sandbox.call in which the function `name` crashes."""

    def call(function: str, kwargs: dict[str, Any], **more: Any) -> Any:
        if function.endswith(name):
            return real("tests.targets.crashers:segfault", {}, **more)
        return real(function, kwargs, **more)

    return call
