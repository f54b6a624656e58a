"""The README's shell commands run (the two long ones, make demo and make test, run in .ci/run).

Some would compile and time more files than what they promise needs: LIMITS adds options to these, or leaves
them (None) to the slow tests, where all of them run as they stand.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.targets import nets
from tests.targets.conftest import shape_bundle, shape_net  # noqa: F401  (fixtures)

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LONG = ("make demo", "make test")
# By the beginning of the command. Each runtime and precision has end-to-end tests of its own.
LIMITS = {
    "compressor bench model.onnx ": None,  # test_cli.py does the same
    "compressor bench timm:": None,
    "compressor bench runs/demo/bundle --device shop-terminal.yaml ": "--precision fp32",
    "compressor bench runs/demo/bundle --device rtx-4070 ": None,
    "compressor bench runs/demo/bundle --device cortex-m4 ": None,  # test_bench_mcu.py does the same, and verifies
    "compressor verify runs/mcu/": None,
    "compressor distill sketch ": "stages.targets.views=1",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def place(shape_net, shape_bundle, tmp_path_factory) -> Path:  # noqa: F811
    """A directory in which the README's files exist: a demo run, a model, data, pairs and a device."""
    import torch

    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(shape_bundle.path, place / "runs/demo/bundle")
    example = torch.zeros(2, 1, nets.SIZE_PX, nets.SIZE_PX)
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(shape_net, (example,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    program.save(place / "model.onnx")
    images, truth = nets.shapes(60, seed=9)
    np.savez(place / "inputs.npz", **{program.model.graph.inputs[0].name: images}, targets=truth)
    (device,) = blocks("yaml")
    (place / "shop-terminal.yaml").write_text(device)
    pairs = place / "pairs"
    pairs.mkdir()
    rng = np.random.default_rng(0)
    for i in range(15):
        x, y = rng.uniform(20, 80, 2)
        shape = f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{10 + i}" fill="none" stroke="black" stroke-width="3"/>'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{shape}</svg>'
        (pairs / f"item{i}.svg").write_text(svg)
        write_photo(pairs / f"item{i}.png", int(x), int(y), i)
    limits = ["--runtime", "onnx", "--precision", "int8"]
    run(["compressor", "bench", "runs/demo/bundle", "--device", "host", *limits, "--out", "runs/demo"], place)
    return place


def write_photo(path: Path, x: int, y: int, i: int) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (100, 100), "white")
    ImageDraw.Draw(image).ellipse((x - i, y - i, x + i, y + i), fill=(16 * i, 80, 240 - 16 * i))
    image.save(path)


def run(command: list[str], place: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        " ".join(command), shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_the_readme_names_the_two_long_commands_and_ci_runs_them():
    ci = (ROOT / ".ci/run").read_text()
    for command in LONG:
        assert command in commands() and command in ci


def limits(command: str) -> str | None:
    """What is added to a command; None: it is too long for these tests."""
    return next((options for start, options in LIMITS.items() if command.startswith(start)), "")


@pytest.mark.parametrize("command", [c for c in commands() if c not in LONG and limits(c) is not None])
def test_readme_command_runs(command, place):
    assert shlex.split(command)[0] == "compressor"
    run([command, limits(command) or ""], place)


def test_every_limit_belongs_to_a_command():
    assert len([command for command in commands() if limits(command) != ""]) == len(LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in commands() if limits(command) != ""])
def test_readme_command_runs_without_limits(command, place):
    run([command], place)


def test_every_file_that_the_readme_names_exists():
    names = re.findall(r"`((?:compressor|targets|profiles|docs|benchmarks|tests)/[\w./-]+)`", README)
    names += re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert names
    for name in names:
        assert (ROOT / name).exists() or "NAME" in name, name
