"""Trained networks, their bundles and their int8 files, each made once per test run (tests/sharing.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from targets.bundle import Bundle
from targets.export import BundleWriter
from tests.sharing import Shared
from tests.targets import nets, small_nets

Net = TypeVar("Net", bound=torch.nn.Module)


@pytest.fixture(scope="session")
def shape_net(shared: Shared) -> nets.ShapeNet:
    return trained_once(shared, "shape-net", nets.ShapeNet, nets.train_shape_net)


def trained_once(shared: Shared, name: str, create: Callable[[], Net], train: Callable[[], Net]) -> Net:
    """A network with the weights of the one that `train` gave to the first process that asked."""
    from safetensors.torch import load_model, save_model

    def make(folder: Path) -> None:
        folder.mkdir()
        save_model(train(), str(folder / "weights.safetensors"))

    net = create()
    load_model(net, str(shared(name, make) / "weights.safetensors"))
    return net.eval()


@pytest.fixture(scope="session")
def shape_bundle(shape_net: nets.ShapeNet, shared: Shared) -> Bundle:
    """A bundle of a trained network with calibration, golden inputs, both splits and a metric."""
    calibration, _ = nets.shapes(128, seed=2)
    validation, validation_truth = nets.shapes(96, seed=3)
    test, test_truth = nets.shapes(64, seed=4)

    def make(path: Path) -> None:
        with BundleWriter(path, student="shapes", task="model", glue="model", recipe_hash="0" * 64) as writer:
            writer.add_graph("net", shape_net, {"canvas": validation[:1]}, outputs=("logits",), weights="encoder")
            writer.calibration("net", {"canvas": calibration})
            writer.golden("net", {"canvas": validation[:32]})
            writer.uses({"query": {"net": 1}})
            writer.settings({"graph": "net", "metric": "top1"})
            writer.split("validation", {"inputs/canvas": validation, "targets": validation_truth}, teacher_value=0.99)
            writer.split("test", {"inputs/canvas": test, "targets": test_truth})

    return Bundle.open(shared("shapes", make))


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
def pair_bundle(shared: Shared) -> Bundle:
    """Two inputs, two outputs."""
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.standard_normal((8, 1, 12, 12)).astype(np.float32),
        "numbers": rng.standard_normal((8, 6)).astype(np.float32),
    }
    return Bundle.open(
        shared("pair", lambda path: write_single(path, nets.seeded(nets.Pair), inputs, ("joined", "score")))
    )


@pytest.fixture(scope="session")
def words_bundle(shared: Shared) -> Bundle:
    """Integer inputs, and an output whose name an inner value has, too."""
    ids = np.random.default_rng(0).integers(0, 50, (16, 7))
    return Bundle.open(
        shared("words", lambda path: write_single(path, nets.seeded(nets.Words), {"ids": ids}, ("embedding",)))
    )


@pytest.fixture(scope="session")
def small_net(shared: Shared) -> Callable[[str], torch.nn.Module]:
    """small_net("image" | "imu" | "gru" | "keyword"): that network, trained once."""

    @functools.cache
    def get(name: str) -> torch.nn.Module:
        train = small_nets.TASKS[name].train
        return trained_once(shared, f"{name}-net", small_nets.NETWORKS[name], train)

    return get


@pytest.fixture(scope="session")
def small_bundle(small_net: Callable[[str], torch.nn.Module], shared: Shared) -> Callable[[str], Bundle]:
    """small_bundle(name): the bundle of that network, written once."""

    @functools.cache
    def get(name: str) -> Bundle:
        return Bundle.open(shared(name, lambda path: small_nets.write_bundle(path, name, small_net(name))))

    return get


@pytest.fixture(scope="session")
def small_int8(small_bundle: Callable[[str], Bundle], shared: Shared) -> Callable[[str], Path]:
    """small_int8(name): the full-integer .tflite of that network, compiled once."""

    def compile_once(name: str) -> Path:
        from targets.tflite import compile_int8

        def make(folder: Path) -> None:
            folder.mkdir()
            compiled = compile_int8(small_bundle(name).source(name), folder)
            assert compiled.problem is None and compiled.float_operators == {}

        return shared(f"{name}-int8", make) / "model.tflite"

    return compile_once
