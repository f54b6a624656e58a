"""On a device that is really there: make test-device DEVICE=raspberry-pi-5 RUNNER=ssh:pi@raspberrypi.local

DEVICE is a profile's name or a YAML file, RUNNER what `compressor bench --runner` takes; without RUNNER the profile's
own. Whatever its runtimes are, each has to give there what it gives here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from profiles.device import Device, load_device
from profiles.errors import MissingError, RequestError
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.runners import Runner, get_runner
from tests.targets.hand_written import product_artifact

pytestmark = pytest.mark.device
TIMEOUT_S = 250


@pytest.fixture
def board() -> Device:
    name = os.environ.get("DEVICE")
    if not name:
        pytest.skip("no DEVICE is named (make test-device DEVICE=raspberry-pi-5 RUNNER=ssh:pi@raspberrypi.local)")
    return load_device(name)


@pytest.fixture
def runner(board: Device) -> Runner:
    name = os.environ.get("RUNNER") or (board.runner.kind if board.runner else None)
    assert name, f"{board.name}: no RUNNER is named, and its profile has none"
    return get_runner(name, timeout_s=TIMEOUT_S)


def test_generated_c_is_exact_there(board: Device, runner: Runner, tmp_path: Path) -> None:
    found = runner.measure(product_artifact(tmp_path / "a"), board, splits=("validation",))
    evaluation = found.evaluation("validation")
    assert found.parity("net").max_abs == 0 and evaluation is not None and evaluation.value == 0
    assert found.ran_on.kind == "device", f"{found.ran_on.name} is not a {board.name}: see `matches` in its profile"


def test_every_runtime_gives_there_what_it_gives_here(
    board: Device, runner: Runner, shape_bundle: Bundle, tmp_path: Path
) -> None:
    verified, impossible = [], []
    for runtime, offered in board.runtimes.items():
        for precision in offered.precisions:
            path = tmp_path / f"{runtime}-{precision}"
            artifact = compile_bundle(shape_bundle, board, runtime, precision, path)
            if not artifact.files("net"):
                impossible.append(f"{path.name}: {artifact.reason}")
                continue
            try:
                runner.measure(artifact, board, splits=("validation",))
            except (MissingError, RequestError) as error:  # no Python on Android, no such files on a microcontroller
                impossible.append(f"{path.name}: {error}")
                continue
            entry = Artifact.open(path).manifest["graphs"]["net"]
            assert entry["status"] == "verified", (path.name, entry["reason"])
            verified.append(path.name)
    assert verified, impossible
