from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from targets.bundle import Bundle
from targets.export import BundleWriter
from tests.targets import nets, small_nets


@pytest.fixture(scope="session")
def shape_net() -> nets.ShapeNet:
    return nets.train_shape_net()


@pytest.fixture(scope="session")
def shape_bundle(shape_net: nets.ShapeNet, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a trained network with calibration, golden inputs, both splits and a metric."""
    path = tmp_path_factory.mktemp("bundle") / "shapes"
    calibration, _ = nets.shapes(128, seed=2)
    validation, validation_truth = nets.shapes(96, seed=3)
    test, test_truth = nets.shapes(64, seed=4)
    with BundleWriter(path, student="shapes", task="model", glue="model", recipe_hash="0" * 64) as writer:
        writer.add_graph("net", shape_net, {"canvas": validation[:1]}, outputs=("logits",), weights="encoder")
        writer.calibration("net", {"canvas": calibration})
        writer.golden("net", {"canvas": validation[:32]})
        writer.uses({"query": {"net": 1}})
        writer.settings({"graph": "net", "metric": "top1"})
        writer.split("validation", {"inputs/canvas": validation, "targets": validation_truth}, teacher_value=0.99)
        writer.split("test", {"inputs/canvas": test, "targets": test_truth})
    return Bundle.open(path)


def write_single(path: Path, module: object, inputs: dict[str, np.ndarray], outputs: tuple[str, ...]) -> Bundle:
    """A bundle of one untrained graph named "net" whose golden and calibration inputs are `inputs`."""
    with BundleWriter(path, student="single", task="model", glue="model", has_metric=False) as writer:
        writer.add_graph("net", module, {name: value[:2] for name, value in inputs.items()}, outputs)  # type: ignore[arg-type]
        writer.golden("net", inputs)
        writer.calibration("net", inputs)
        writer.uses({"query": {"net": 1}})
        writer.settings({"graph": "net", "metric": None})
        writer.split("validation", {f"inputs/{name}": value for name, value in inputs.items()})
    return Bundle.open(path)


@pytest.fixture(scope="session")
def pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two inputs, two outputs."""
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.standard_normal((8, 1, 12, 12)).astype(np.float32),
        "numbers": rng.standard_normal((8, 6)).astype(np.float32),
    }
    path = tmp_path_factory.mktemp("pair") / "b"
    return write_single(path, nets.seeded(nets.Pair), inputs, ("joined", "score"))


@pytest.fixture(scope="session")
def words_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Integer inputs, and an output whose name an inner value has, too."""
    ids = np.random.default_rng(0).integers(0, 50, (16, 7))
    path = tmp_path_factory.mktemp("words") / "b"
    return write_single(path, nets.seeded(nets.Words), {"ids": ids}, ("embedding",))


@pytest.fixture(scope="session")
def small_net() -> Callable[[str], torch.nn.Module]:
    """small_net("image" | "imu" | "gru" | "keyword"): that network, trained once."""
    return small_nets.trained


@pytest.fixture(scope="session")
def small_bundle(
    small_net: Callable[[str], torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """small_bundle(name): the bundle of that network, written once."""

    @functools.cache
    def write(name: str) -> Bundle:
        return small_nets.write_bundle(tmp_path_factory.mktemp("small") / name, name, small_net(name))

    return write
