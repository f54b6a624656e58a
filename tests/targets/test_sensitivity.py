"""The search for layers that int8 hurts, on a network in which one layer is known to be the culprit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from targets.graph import Graph, TensorSpec
from targets.parity import compare
from targets.sensitivity import fake_quantise_weights, find_sensitive, smallest
from targets.target import GraphSource, get_target
from tests.targets.outlier import WIDTH, write_outlier


@pytest.fixture(scope="module")
def outlier(tmp_path_factory: pytest.TempPathFactory) -> GraphSource:
    path = tmp_path_factory.mktemp("outlier") / "m.onnx"
    feeds = write_outlier(path)
    spec = ("batch", WIDTH)
    graph = Graph("g", (TensorSpec("x", "float32", spec),), (TensorSpec("y", "float32", spec),))
    return GraphSource(graph, path, calibration=feeds, golden={"x": feeds["x"][:16]})


def test_the_layer_behind_an_outlier_is_found_and_is_the_only_one_to_stay_float(
    outlier: GraphSource, tmp_path: Path
) -> None:
    found = find_sensitive(outlier, tmp_path, 25.0)
    assert next(iter(found.alone_db)) == "second"
    assert found.alone_db["second"] < 15 < 30 < found.alone_db["y"]
    assert found.all_db < 15 and found.excluded == ("second",)
    assert found.excluded_db is not None and found.excluded_db >= 25


@pytest.mark.parametrize("runtime", ("onnx", "openvino", "tensorrt-rtx"))
def test_leaving_that_layer_in_float_repairs_the_compiled_file(
    outlier: GraphSource, tmp_path: Path, runtime: str
) -> None:
    reference = get_target("onnx").open(outlier.graph, (outlier.onnx,), "fp32", {})(outlier.golden or {})
    signal = []
    for name, options in (("all", {}), ("without", {"exclude_layers": ["second"]})):
        out = tmp_path / name
        out.mkdir()
        result = get_target(runtime).compile(outlier, out, "int8", options)
        if runtime == "tensorrt-rtx":
            signal.append(result.build["numerics"]["parity"]["sqnr_db"])
            continue
        files = tuple(out / file for file in result.files)
        outputs = get_target(runtime).open(outlier.graph, files, "int8", {})(outlier.golden or {})
        signal.append(compare(reference, outputs).sqnr_db)
    assert signal[0] < 5 and signal[1] > 12  # where weights have 7 bits (no VNNI) little more can be had


def test_thesmallest_count_that_passes_is_found_by_few_measurements() -> None:
    asked: list[int] = []

    def measure(k: int) -> float:
        asked.append(k)
        return 10.0 + k

    assert smallest(100, measure, 47.0, 10.0) == (37, 47.0)
    assert len(asked) <= 14
    assert smallest(100, measure, 5.0, 10.0) == (0, 10.0)
    assert smallest(3, measure, 99.0, 10.0) == (None, None)


def test_weights_have_one_scale_per_output_channel() -> None:
    weights = np.array([[1.0, 1000.0], [0.5, 500.0]], np.float32)  # inputs x outputs
    np.testing.assert_allclose(fake_quantise_weights(weights, "MatMul", 1), weights, rtol=1.01 / 127)


def test_tflite_ranks_the_operators_of_its_own_file(outlier: GraphSource, tmp_path: Path) -> None:
    """There the layer in front of the outlier hurts as well: an integer layer rounds what it gives, too."""
    from targets.tflite.sensitivity import find_sensitive as find_in_file

    found = find_in_file(outlier, 20.0)
    *hurting, last = found.alone_db
    assert last == "y" and found.alone_db[last] > 30 and all(found.alone_db[name] < 5 for name in hurting)
    assert found.all_db < 5 and found.excluded == tuple(hurting) and len(hurting) == 2
    result = get_target("tflite").compile(outlier, tmp_path, "int8", {"exclude_layers": hurting})
    assert result.float_operators == {"FULLY_CONNECTED": 2}
    reference = get_target("onnx").open(outlier.graph, (outlier.onnx,), "fp32", {})(outlier.golden or {})
    outputs = get_target("tflite").open(outlier.graph, (tmp_path / "model.tflite",), "int8", {})(outlier.golden or {})
    signal = compare(reference, outputs).sqnr_db
    assert signal is not None and signal > 30
