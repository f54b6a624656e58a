"""Make the smoke test's student and its artifacts again: python docker/smoke/make.py

The student tells in which quarter of an 8x8 picture a bright spot is. What lies beside this program is its output: the
images have neither torch nor the converters, and must build from a clone alone.

bundle/         for the image that compiles on the device (gpu)
onnx-fp32/ openvino-fp32/ tflite-fp32/ tflite-int8/ c-int8/        artifacts for those that only run
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from profiles.device import load_device
from profiles.results import Precision
from targets.artifact import compile_bundle
from targets.bundle import Bundle
from targets.export import BundleWriter

HERE = Path(__file__).parent
ARTIFACTS: tuple[tuple[str, str, Precision], ...] = (
    ("host", "onnx", "fp32"),
    ("host", "openvino", "fp32"),
    ("host", "tflite", "fp32"),
    ("host", "tflite", "int8"),
    ("cortex-m4", "c", "int8"),
)
SIZE_PX, QUARTERS, STEPS = 8, 4, 300


def spots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (count, 1, 8, 8) float32 of one spot in noise, and its quarter (count,), counted row by row."""
    rng = np.random.default_rng(seed)
    pictures = rng.normal(0, 0.2, (count, 1, SIZE_PX, SIZE_PX)).astype(np.float32)
    y, x = rng.integers(0, SIZE_PX, (2, count))
    pictures[np.arange(count), 0, y, x] += 2
    return pictures, 2 * (y >= SIZE_PX // 2) + (x >= SIZE_PX // 2)


def train() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, QUARTERS)
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(STEPS):
        pictures, quarters = spots(64, 1000 + step)
        loss = nn.functional.cross_entropy(net(torch.from_numpy(pictures)), torch.from_numpy(quarters))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def write_bundle(path: Path) -> Bundle:
    calibration, _ = spots(64, 1)
    validation, quarters = spots(64, 2)
    with BundleWriter(path, student="spots", task="model", glue="model") as writer:
        writer.add_graph("net", train(), {"picture": validation[:1]}, outputs=("logits",))
        writer.calibration("net", {"picture": calibration})
        writer.golden("net", {"picture": validation[:16]})
        writer.uses({"query": {"net": 1}})
        writer.settings({"graph": "net", "metric": "top1"})
        writer.split("validation", {"inputs/picture": validation, "targets": quarters})
    return Bundle.open(path)


def make(out: Path) -> None:
    shutil.rmtree(out / "bundle", ignore_errors=True)
    bundle = write_bundle(out / "bundle")
    for device, runtime, precision in ARTIFACTS:
        artifact = compile_bundle(bundle, load_device(device), runtime, precision, out / f"{runtime}-{precision}")
        print(f"{artifact.path.name}: {artifact.status}, {artifact.bytes} bytes {artifact.reason or ''}")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
