from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import targets
from profiles.errors import RequestError
from targets.bundle import Bundle
from targets.export import BundleWriter
from tests.targets import nets
from tests.targets.conftest import write_single


@pytest.fixture
def copied(shape_bundle: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(shape_bundle.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_bundle_round_trips_its_module(shape_bundle: Bundle, shape_net: nets.ShapeNet) -> None:
    images, truth = nets.shapes(50, seed=9)
    with torch.no_grad():
        expected = shape_net(torch.from_numpy(images)).numpy()
    student = targets.load(shape_bundle.path)
    np.testing.assert_allclose(student({"canvas": images[0]})["logits"], expected[0], atol=1e-5)
    evaluation = student.evaluate({"inputs/canvas": images, "targets": truth})
    assert evaluation.value == np.mean(expected.argmax(1) == truth)
    assert evaluation.value > 0.9, "the test network has not learned its shapes"
    assert student.calls == {"net": 51}


def test_weights_are_stored_as_the_module_has_them(shape_bundle: Bundle, shape_net: nets.ShapeNet) -> None:
    stored = load_file(shape_bundle.path / "weights" / "encoder.safetensors")
    state = shape_net.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)


def test_the_manifest_says_what_was_written(shape_bundle: Bundle) -> None:
    assert shape_bundle.teacher_value("validation") == 0.99 and shape_bundle.teacher_value("test") is None
    assert shape_bundle.graphs["net"].inputs[0].shape == ("batch", 1, 16, 16)
    assert shape_bundle.manifest["graphs"]["net"]["torch"] == torch.__version__
    entry = shape_bundle.manifest["graphs"]["net"]["parity"]
    assert max(entry["onnx"]["worst"], entry["program"]["worst"]) <= 1e-4
    calibration = shape_bundle.calibration("net")
    assert calibration is not None and calibration["canvas"].shape == (128, 1, 16, 16)


@pytest.mark.parametrize(
    "file", ["graphs/net/model.onnx", "graphs/net/program.pt2", "weights/encoder.safetensors", "golden.npz", "eval.npz"]
)
def test_a_changed_byte_is_refused_by_name(copied: Path, file: str) -> None:
    data = bytearray((copied / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / file).write_bytes(bytes(data))
    with pytest.raises(RequestError, match=file.replace(".", r"\.")) as caught:
        Bundle.open(copied)
    assert "\n" not in str(caught.value)


def test_a_missing_file_another_format_and_a_path_outside_are_refused(copied: Path) -> None:
    (copied / "golden.npz").unlink()
    with pytest.raises(RequestError, match=r"golden\.npz: missing"):
        Bundle.open(copied)
    manifest = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps({**manifest, "files": {"../x": "0"}}))
    with pytest.raises(RequestError, match="outside"):
        Bundle.open(copied)
    (copied / "bundle.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(RequestError, match="format 99"):
        Bundle.open(copied)
    with pytest.raises(RequestError, match="no such bundle"):
        Bundle.open(copied / "nothing")
    with pytest.raises(RequestError, match="neither a bundle nor an artifact"):
        targets.load(copied / "graphs")


def test_graphs_that_share_weights_share_one_file(tmp_path: Path) -> None:
    net = nets.seeded(nets.Small)
    with BundleWriter(tmp_path / "b", student="s", task="model", glue="model") as writer:
        for px in (16, 24):
            canvas = np.zeros((2, 1, px, px), np.float32)
            writer.add_graph(f"encoder_{px}", net, {"canvas": canvas}, ("logits",), weights="encoder")
            writer.golden(f"encoder_{px}", {"canvas": canvas})
        with pytest.raises(ValueError, match="other values"):
            writer.add_graph("other", nets.seeded(nets.Small, 1), {"canvas": canvas}, ("logits",), weights="encoder")
        writer.uses({"query": {"encoder_16": 0.5, "encoder_24": 0.5}})
        writer.settings({"graph": "encoder_16", "metric": None})
    assert [p.name for p in (tmp_path / "b" / "weights").iterdir()] == ["encoder.safetensors"]
    assert sorted(p.name for p in (tmp_path / "b" / "graphs").iterdir()) == ["encoder_16", "encoder_24"]


def test_a_writer_that_fails_leaves_the_old_bundle(shape_bundle: Bundle, copied: Path) -> None:
    with pytest.raises(ValueError, match="golden"), BundleWriter(copied, student="s", task="t", glue="model") as writer:
        canvas = np.zeros((1, 1, 16, 16), np.float32)
        writer.add_graph("net", nets.seeded(nets.Small), {"canvas": canvas}, ("logits",))
    assert Bundle.open(copied).sha256 == shape_bundle.sha256
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_a_killed_writer_leaves_nothing_at_the_bundle_s_place(tmp_path: Path) -> None:
    """SIGKILL cannot be answered: only a hidden temporary directory may remain, never a half bundle."""
    program = (
        "import sys, time, numpy as np\n"
        "from targets.export import BundleWriter\n"
        "with BundleWriter(sys.argv[1], student='s', task='model', glue='model') as writer:\n"
        "    writer.split('test', {'x': np.zeros(1000)})\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "b")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b").exists()
    assert all(path.name.startswith(".b.tmp-") for path in tmp_path.iterdir())


def test_golden_inputs_must_fit_the_graph(tmp_path: Path) -> None:
    net = nets.seeded(nets.Small)
    with (
        pytest.raises(RequestError, match="float64"),
        BundleWriter(tmp_path / "b", student="s", task="t", glue="model") as writer,
    ):
        writer.add_graph("net", net, {"canvas": np.zeros((1, 1, 16, 16), np.float32)}, ("logits",))
        writer.golden("net", {"canvas": np.zeros((1, 1, 16, 16))})
    assert not (tmp_path / "b").exists()


def test_a_network_whose_batch_is_baked_in_is_refused_with_a_way_out(tmp_path: Path) -> None:
    class Baked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, -1)[:, :3] if x.shape[0] == 2 else x.reshape(1, -1)[:, :3]

    with BundleWriter(tmp_path / "b", student="s", task="t", glue="model") as writer:
        with pytest.raises(RequestError, match="dynamic_batch=False") as caught:
            writer.add_graph("net", Baked(), {"x": np.ones((2, 4), np.float32)}, ("y",))
        assert "\n" not in str(caught.value)
        writer.add_graph("net", Baked(), {"x": np.ones((1, 4), np.float32)}, ("y",), dynamic_batch=False)
        writer.golden("net", {"x": np.arange(12, dtype=np.float32).reshape(3, 4)})
        writer.uses({"query": {"net": 1}})
        writer.settings({"graph": "net", "metric": None})
    _, outputs = Bundle.open(tmp_path / "b").golden("net")
    np.testing.assert_array_equal(outputs["y"], [[0, 1, 2], [4, 5, 6], [8, 9, 10]])


def test_opening_is_quick_enough_to_do_always(shape_bundle: Bundle) -> None:
    start = time.perf_counter()
    Bundle.open(shape_bundle.path)
    assert time.perf_counter() - start < 1.0


def test_an_output_may_have_the_name_of_an_inner_value(words_bundle: Bundle) -> None:
    """torch's exporter names an nn.Embedding's result "embedding" and does not notice the clash."""
    inputs, _ = words_bundle.golden("net")
    with torch.no_grad():
        expected = nets.seeded(nets.Words)(torch.from_numpy(inputs["ids"])).numpy()
    student = targets.load(words_bundle.path, "onnx")
    np.testing.assert_allclose(student({"ids": inputs["ids"][0]})["embedding"], expected[0], atol=1e-5)


def test_an_input_may_be_an_output_and_an_output_may_come_twice(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            y = x * 2
            return y, x, y

    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    bundle = write_single(tmp_path / "b", Twice(), {"x": x}, ("a", "b", "c"))
    answer = targets.load(bundle.path, "onnx")({"x": x[1]})
    np.testing.assert_array_equal([answer["a"], answer["b"], answer["c"]], [[4, 6], [2, 3], [4, 6]])
