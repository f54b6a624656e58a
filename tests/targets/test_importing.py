"""A user's own model, and everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import targets
from profiles.errors import RequestError
from targets import import_timm
from targets.bundle import Bundle
from targets.import_data import synthetic_inputs
from targets.importing import import_model
from targets.programs import save_program
from targets.target import get_target
from tests.targets import nets

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def linear(path: Path, shape: list[int | str], external: bool = False) -> Path:
    """y = x @ WEIGHT for x of the given shape."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape[:-1], 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear(tmp_path / "own.onnx", ["N", 4])


def data(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def refused(match: str, *arguments: object, **keywords: object) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        import_model(*arguments, **keywords)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_onnx_file_with_data_and_metric_becomes_a_bundle(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    truth = (x @ WEIGHT).argmax(1)
    truth[:15] = (truth[:15] + 1) % 3
    bundle = import_model(str(model), tmp_path / "b", data=data(tmp_path / "d.npz", x=x, targets=truth), metric="top1")
    assert bundle.student == "own" and bundle.inputs == "real" and not bundle.random_weights
    student = targets.load(bundle.path)
    np.testing.assert_allclose(student({"x": x[0]})["y"], x[0] @ WEIGHT, atol=1e-5)
    values = [student.evaluate(split) for split in ("validation", "test")]
    assert sum(len(v.scores) for v in values) == 60 and sum(v.scores.sum() for v in values) == 45
    assert [metric["value"] for metric in bundle.metrics] == [v.value for v in values]
    calibration, (golden, outputs) = bundle.calibration("model"), bundle.golden("model")
    assert calibration is not None
    validation = {row.tobytes() for row in bundle.split("validation")["inputs/x"]}
    assert {row.tobytes() for row in (*calibration["x"], *golden["x"])} <= validation, "never from the test part"
    np.testing.assert_allclose(outputs["y"], golden["x"] @ WEIGHT, atol=1e-5)


def test_without_data_inputs_are_synthetic_and_there_is_nothing_to_calibrate_with(model: Path, tmp_path: Path) -> None:
    bundle = import_model(str(model), tmp_path / "b")
    assert bundle.inputs == "synthetic" and bundle.calibration("model") is None
    assert bundle.manifest["has_metric"] is False
    with pytest.raises(RequestError, match="int8 needs real inputs"):
        get_target("onnx").compile(bundle.source("model"), tmp_path, "int8", {})


def test_the_user_s_metric_travels_with_the_bundle(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.py").write_text(
        "import numpy as np\n"
        "def worst(outputs, targets):\n    return np.abs(outputs['y'] - targets['targets']).max(axis=1)\n"
        "worst.higher_is_better = False\n"
    )
    monkeypatch.chdir(tmp_path / "work")
    x = np.ones((4, 4), np.float32)
    file = data(tmp_path / "d.npz", x=x, targets=x @ WEIGHT + 0.25)
    bundle = import_model(str(model), tmp_path / "b", data=file, metric="mine:worst")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / "mine.py").unlink()
    evaluation = targets.load(bundle.path).evaluate("test")
    assert evaluation.value == pytest.approx(0.25) and not evaluation.higher_is_better


def test_a_fixed_batch_works(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    bundle = import_model(str(linear(tmp_path / "m.onnx", [1, 4])), tmp_path / "b", data=data(tmp_path / "d.npz", x=x))
    assert bundle.graphs["model"].inputs[0].shape == (1, 4)
    for runtime in ("onnx", "openvino"):
        student = targets.load(bundle.path, runtime)
        np.testing.assert_allclose(student.sessions["model"]({"x": x})["y"], x @ WEIGHT, atol=1e-5)


def test_other_dynamic_axes_take_the_data_s_shape(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx", ["batch", "time", 4])
    refused(r"axis 1 of input x is dynamic \(time\): give --data", str(path), tmp_path / "b")
    x = np.random.default_rng(0).standard_normal((6, 7, 4)).astype(np.float32)
    bundle = import_model(str(path), tmp_path / "b", data=data(tmp_path / "d.npz", x=x))
    assert bundle.graphs["model"].inputs[0].shape == ("batch", 7, 4)
    assert bundle.graphs["model"].outputs[0].shape == ("batch", 7, 3)
    student = targets.load(bundle.path, "openvino")
    np.testing.assert_allclose(student({"x": x[2]})["y"], x[2] @ WEIGHT, atol=1e-5)
    assert not (bundle.path / "fixed").exists()


def test_external_weights_come_along_and_are_missed(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx", ["N", 4], external=True)
    bundle = import_model(str(path), tmp_path / "b")
    assert (bundle.path / "graphs" / "model" / "weights.bin").is_file()
    x = np.ones(4, np.float32)
    np.testing.assert_allclose(targets.load(bundle.path, "openvino")({"x": x})["y"], x @ WEIGHT, atol=1e-5)
    (tmp_path / "weights.bin").unlink()
    refused(r"weights are in weights\.bin, which is not beside it", str(path), tmp_path / "c")


def test_broken_models_are_one_line(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "empty": b"", "text": b"hello world\n" * 9}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(rf"{name}\.onnx: not a", str(tmp_path / f"{name}.onnx"), tmp_path / "b")
        (tmp_path / f"{name}.pt2").write_bytes(content)
        refused(rf"{name}\.pt2: not a", str(tmp_path / f"{name}.pt2"), tmp_path / "b")
    refused("no such file", str(tmp_path / "none.onnx"), tmp_path / "b")
    refused("give a .onnx or .pt2 file", "model.tflite", tmp_path / "b")
    refused("unknown model: did you mean mobilenetv3", "timm:mobilenetv3_smal_050", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_operator_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], domain="acme")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    refused(r"ONNX Runtime cannot run it: .*Frobnicate", str(tmp_path / "m.onnx"), tmp_path / "b")


def test_data_that_does_not_fit_is_one_line(model: Path, tmp_path: Path) -> None:
    x = np.zeros((3, 4), np.float32)
    arguments = (str(model), tmp_path / "b")
    refused("input x is float64, the graph takes float32", *arguments, data=data(tmp_path / "a.npz", x=x.astype("f8")))
    refused(r"input x has shape \(3, 5\)", *arguments, data=data(tmp_path / "a.npz", x=np.zeros((3, 5), np.float32)))
    refused("inputs are u, v, but the graph takes x", *arguments, data=data(tmp_path / "a.npz", u=x, v=x))
    refused(
        "different numbers of items", *arguments, data=data(tmp_path / "a.npz", x=x, targets=np.zeros(4)), metric="mae"
    )
    refused("no items", *arguments, data=data(tmp_path / "a.npz", x=x[:0]))
    refused("a single number", *arguments, data=data(tmp_path / "a.npz", x=np.float32(1)))
    refused("no such file", *arguments, data=tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    refused("not a readable .npz", *arguments, data=tmp_path / "bad.npz")
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    refused("not a readable .npz of plain arrays", *arguments, data=tmp_path / "object.npz")
    (tmp_path / "empty").mkdir()
    refused("no .npy files", *arguments, data=tmp_path / "empty")
    assert not (tmp_path / "b").exists()


def test_metric_and_targets_belong_together(model: Path, tmp_path: Path) -> None:
    x, arguments = np.zeros((3, 4), np.float32), (str(model), tmp_path / "b")
    refused("needs targets, but there is no --data", *arguments, metric="top1")
    refused("needs targets, but --data .* has none", *arguments, data=data(tmp_path / "a.npz", x=x), metric="top1")
    refused("has targets, but there is no --metric", *arguments, data=data(tmp_path / "b.npz", x=x, targets=x))
    file = data(tmp_path / "c.npz", x=x, targets=np.zeros((3, 2)))
    refused("metric mse: the output is", *arguments, data=file, metric="mse")


def test_a_directory_of_arrays_is_data(model: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", np.ones((4, 4), np.float32))
    np.save(tmp_path / "d" / "targets.npy", np.array([2, 2, 2, 0]))
    bundle = import_model(str(model), tmp_path / "b", data=tmp_path / "d", metric="top1")
    assert targets.load(bundle.path).evaluate("test").value == 0.75


def test_an_exported_program_becomes_a_bundle(tmp_path: Path) -> None:
    net = nets.seeded(nets.Pair)
    image, numbers = torch.rand(2, 1, 12, 12), torch.rand(2, 6)
    batch = {0: torch.export.Dim("batch")}
    save_program(torch.export.export(net, (image, numbers), dynamic_shapes=(batch, batch)), tmp_path / "pair.pt2")
    file = data(tmp_path / "d.npz", image=image.repeat(2, 1, 1, 1), numbers=numbers.repeat(2, 1))
    bundle = import_model(str(tmp_path / "pair.pt2"), tmp_path / "b", data=file)
    assert [spec.name for spec in bundle.graphs["model"].inputs] == ["image", "numbers"]
    with torch.no_grad():
        expected = net(image, numbers)
    inputs = {"image": image[1].numpy(), "numbers": numbers[1].numpy()}
    for runtime in (None, "onnx"):
        outputs = list(targets.load(bundle.path, runtime)(inputs).values())
        for value, reference in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(value, reference[1], atol=1e-5)


def test_a_program_with_a_fixed_batch_works(tmp_path: Path) -> None:
    net = nets.seeded(nets.Small)
    save_program(torch.export.export(net, (torch.rand(1, 1, 16, 16),)), tmp_path / "m.pt2")
    images, _ = nets.shapes(5, seed=0)
    bundle = import_model(str(tmp_path / "m.pt2"), tmp_path / "b", data=data(tmp_path / "d.npz", canvas=images))
    assert bundle.graphs["model"].inputs[0].shape == (1, 1, 16, 16)
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    for runtime in (None, "onnx", "openvino"):
        session = targets.load(bundle.path, runtime).sessions["model"]
        found = next(iter(session({bundle.graphs["model"].inputs[0].name: images}).values()))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_timm_without_its_weights_says_so_and_reports_no_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_timm, "_reachable", lambda address, timeout_s=0.0: False)
    images = np.random.default_rng(0).standard_normal((4, 3, 160, 160)).astype(np.float32)
    file = data(tmp_path / "d.npz", image=images, targets=np.arange(4))
    bundle = import_model("timm:test_efficientnet", tmp_path / "b", data=file, metric="top1")
    assert isinstance(bundle, Bundle) and bundle.random_weights
    assert bundle.lineage["random_weights"] and bundle.manifest["has_metric"] is False and not bundle.metrics
    assert bundle.student == "test_efficientnet" and bundle.graphs["model"].inputs[0].shape == ("batch", 3, 160, 160)


def test_synthetic_integers_stay_inside_every_vocabulary() -> None:
    from targets.graph import Graph, TensorSpec

    graph = Graph("g", (TensorSpec("ids", "int64", ("batch", 9)), TensorSpec("on", "bool", ("batch",))), ())
    arrays = synthetic_inputs(graph)
    assert set(np.unique(arrays["ids"])) <= {0, 1} and arrays["on"].dtype == bool
