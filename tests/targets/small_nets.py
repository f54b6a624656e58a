"""Four small networks as microcontrollers run them, and closed-form data that they learn in seconds on one core.

image     a residual network of depthwise blocks on the outlines of tests.targets.nets
imu       a separable 1-D network on windows of an accelerometer and a gyroscope: what the wearer does
gru       one step of a gated recurrent unit on the same sensors, sample by sample: which gesture it is
keyword   a depthwise-separable network on 49 frames of 10 features (after "Hello Edge", arXiv:1711.07128): which word

They use only operators that TFLite-Micro has: ReLU, and means that keep their axes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from targets.bundle import Bundle
from targets.export import BundleWriter
from tests.targets import nets

Arrays = dict[str, np.ndarray]

IMU_CHANNELS, IMU_SAMPLES, IMU_RATE_HZ = 6, 128, 50.0
# Steps per second, strength of the movement in g, share of the second harmonic, and what the gyroscope sees in rad/s.
ACTIVITIES = {
    "still": (0.0, 0.0, 0.0, 0.0),
    "walking": (1.8, 0.35, 0.4, 1.0),
    "running": (2.8, 1.1, 0.3, 2.2),
    "stairs": (1.4, 0.45, 0.8, 0.7),
    "cycling": (1.2, 0.12, 0.1, 1.8),
    "jumping": (2.1, 1.6, 0.7, 0.4),
}

GESTURE_SAMPLES, GESTURE_HIDDEN = 24, 24
# Lissajous figures: turns along x and y, and the phase between them. A circle, an eight, a stroke, a zigzag.
GESTURES = {"circle": (1, 1, np.pi / 2), "eight": (1, 2, 0.0), "stroke": (1, 1, 0.0), "zigzag": (1, 4, np.pi / 2)}

KEYWORD_FRAMES, KEYWORD_FEATURES, KEYWORD_CHANNELS = 49, 10, 32
# Where the energy lies at the beginning, the middle and the end of a word, in feature bins: two formants each.
KEYWORDS = {
    "up": ((2.0, 6.0), (2.0, 4.0), (1.0, 3.0)),
    "down": ((1.0, 4.0), (3.0, 5.0), (1.0, 3.0)),
    "left": ((2.0, 7.0), (3.0, 8.0), (5.0, 9.0)),
    "right": ((1.0, 3.0), (3.0, 6.0), (1.0, 8.0)),
    "stop": ((6.0, 9.0), (2.0, 4.0), (1.0, 2.0)),
    "go": ((1.0, 3.0), (2.0, 3.0), (1.0, 2.0)),
}


class ResidualBlock(nn.Module):
    """Depthwise 3x3, then pointwise, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class ImageNet(nn.Module):
    """Canvas (n, 1, 16, 16) to logits (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            ResidualBlock(16), nets.depthwise(16, 32, 2), ResidualBlock(32), nets.depthwise(32, 48, 2)
        )
        self.head = nn.Linear(48, nets.CLASSES)

    def forward(self, canvas: Tensor) -> Tensor:
        return self.head(self.body(self.stem(canvas)).mean((2, 3), keepdim=True).flatten(1))


def separable(inner: int, outer: int, stride: int) -> nn.Sequential:
    """Depthwise over 5 samples, then pointwise."""
    return nn.Sequential(
        nn.Conv1d(inner, inner, 5, stride, 2, groups=inner, bias=False),
        nn.BatchNorm1d(inner),
        nn.ReLU(),
        nn.Conv1d(inner, outer, 1, bias=False),
        nn.BatchNorm1d(outer),
        nn.ReLU(),
    )


class ImuNet(nn.Module):
    """Window (n, 6, 128) to logits (n, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(IMU_CHANNELS, 16, 5, 2, 2, bias=False), nn.BatchNorm1d(16), nn.ReLU())
        self.body = nn.Sequential(separable(16, 32, 2), separable(32, 32, 1), separable(32, 48, 2))
        self.head = nn.Linear(48, len(ACTIVITIES))

    def forward(self, window: Tensor) -> Tensor:
        return self.head(self.body(self.stem(window)).mean(2, keepdim=True).flatten(1))


class GruCell(nn.Module):
    """One step: sample (n, 6) and state (n, 24) to the next state and logits (n, 4) (after arXiv:1406.1078)."""

    def __init__(self) -> None:
        super().__init__()
        self.update = nn.Linear(IMU_CHANNELS + GESTURE_HIDDEN, GESTURE_HIDDEN)
        self.reset = nn.Linear(IMU_CHANNELS + GESTURE_HIDDEN, GESTURE_HIDDEN)
        self.candidate = nn.Linear(IMU_CHANNELS + GESTURE_HIDDEN, GESTURE_HIDDEN)
        self.head = nn.Linear(GESTURE_HIDDEN, len(GESTURES))

    def forward(self, sample: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat((sample, state), 1)
        z, r = torch.sigmoid(self.update(joined)), torch.sigmoid(self.reset(joined))
        candidate = torch.tanh(self.candidate(torch.cat((sample, r * state), 1)))
        following = candidate + z * (state - candidate)
        return following, self.head(following)


class KeywordNet(nn.Module):
    """Features (n, 1, 49, 10) to logits (n, 6)."""

    def __init__(self) -> None:
        super().__init__()
        width = KEYWORD_CHANNELS
        self.stem = nn.Sequential(nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(*(nets.depthwise(width, width, 1) for _ in range(4)))
        self.head = nn.Linear(width, len(KEYWORDS))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(self.stem(features)).mean((2, 3), keepdim=True).flatten(1))


def activities(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (count, 6, 128) float32 of acceleration in g and rotation in rad/s, and what was done (count,).

    Gravity in a random direction near the wrist's rest, steps with one harmonic along it and across it, noise.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(ACTIVITIES), count)
    time = np.arange(IMU_SAMPLES) / IMU_RATE_HZ
    windows = np.empty((count, IMU_CHANNELS, IMU_SAMPLES), np.float32)
    for i, kind in enumerate(truth):
        rate, strength, harmonic, turning = list(ACTIVITIES.values())[kind]
        rate, strength, turning = np.array([rate, strength, turning]) * rng.uniform(0.85, 1.15, 3)
        up = np.array([0.0, 0.0, 1.0]) + rng.normal(0, 0.3, 3)
        up /= np.linalg.norm(up)
        across, axis = (np.cross(up, rng.normal(0, 1, 3)) for _ in range(2))
        angle = 2 * np.pi * rate * time + rng.uniform(0, 2 * np.pi)
        step = np.sin(angle) + harmonic * np.sin(2 * angle + 0.7)
        windows[i, :3] = np.outer(up, 1 + strength * step) + np.outer(across, 0.3 * strength * np.cos(angle / 2))
        windows[i, 3:] = np.outer(axis, turning * np.sin(angle / 2))
        windows[i] += rng.normal(0, 0.08, windows[i].shape)
    return windows, truth


def gestures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (count, 24, 6) float32 of acceleration and rotation in drawing a figure, and which it is (count,).

    The acceleration is the second derivative of the figure in units of its largest, turned in the plane; the rotation
    follows its velocity."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(GESTURES), count)
    turn = np.linspace(0, 2 * np.pi, GESTURE_SAMPLES, endpoint=False)
    sequences = np.empty((count, GESTURE_SAMPLES, IMU_CHANNELS), np.float32)
    for i, kind in enumerate(truth):
        along, up, phase = list(GESTURES.values())[kind]
        start, tilt = rng.uniform(-0.4, 0.4, 2)
        u, v = along * (turn + start), up * (turn + start) + phase
        rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        acceleration = -rotation @ np.stack([np.sin(u), np.sin(v)]) * rng.uniform(0.8, 1.2)
        velocity = rotation @ np.stack([np.cos(u), np.cos(v)])
        sequences[i, :, :2], sequences[i, :, 2] = acceleration.T, 1.0
        sequences[i, :, 3:5], sequences[i, :, 5] = velocity.T, 0.2 * velocity.sum(0)
        sequences[i] += rng.normal(0, 0.1, sequences[i].shape)
    return sequences, truth


def keywords(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, 1, 49, 10) float32 like the log energies of a short word, and which word (count,).

    Two formants glide through three places while the word lasts; its beginning, length and loudness vary."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(KEYWORDS), count)
    frame, bins = np.arange(KEYWORD_FRAMES), np.arange(KEYWORD_FEATURES)
    features = rng.normal(0, 0.7, (count, 1, KEYWORD_FRAMES, KEYWORD_FEATURES)).astype(np.float32)
    for i, kind in enumerate(truth):
        places = np.array(list(KEYWORDS.values())[kind]) + rng.normal(0, 0.25, (3, 2))
        begin, length = rng.uniform(3, 14), rng.uniform(22, 32)
        progress = (frame - begin) / length
        envelope = rng.uniform(1.5, 2.5) / (1 + np.exp(-12 * np.minimum(progress, 1 - progress) - 1))
        for formant, share in zip(places.T, (1.0, 0.7), strict=True):
            centre = np.interp(progress, (0.0, 0.5, 1.0), formant)
            features[i, 0] += (envelope[:, None] * share * np.exp(-0.5 * np.square(bins - centre[:, None]))).astype("f")
    return features, truth


def classifier(net: nn.Module, data: tuple[np.ndarray, np.ndarray], steps: int) -> nn.Module:
    """The network, trained to tell classes apart. `data`: inputs and truth."""
    inputs, truth = (torch.from_numpy(value) for value in data)
    nets.fit(net, lambda rows: F.cross_entropy(net(inputs[rows]), truth[rows]), len(inputs), steps)
    return net


def train_image() -> nn.Module:
    return classifier(nets.seeded(ImageNet), nets.shapes(2048, seed=1), 80)


def train_imu() -> nn.Module:
    return classifier(nets.seeded(ImuNet), activities(2048, seed=1), 120)


def train_keyword() -> nn.Module:
    return classifier(nets.seeded(KeywordNet), keywords(2048, seed=1), 80)


def train_gru() -> nn.Module:
    """The cell, unrolled over whole gestures; it is asked from the middle of each on."""
    net = nets.seeded(GruCell)
    sequences, truth = (torch.from_numpy(value) for value in gestures(1024, seed=1))

    def loss(rows: Tensor) -> Tensor:
        state, losses = torch.zeros(len(rows), GESTURE_HIDDEN), []
        for time in range(GESTURE_SAMPLES):
            state, logits = net(sequences[rows, time], state)
            if time >= GESTURE_SAMPLES // 2:
                losses.append(F.cross_entropy(logits, truth[rows]))
        return torch.stack(losses).mean()

    nets.fit(net, loss, len(sequences), 120)
    return net


def rollouts(net: nn.Module, count: int, seed: int) -> tuple[Arrays, np.ndarray]:
    """`count` steps of the cell, each from another gesture at a time in its second half, and the gestures' kinds."""
    sequences, truth = gestures(count, seed)
    times = np.random.default_rng(seed).integers(GESTURE_SAMPLES // 2, GESTURE_SAMPLES, count)
    states = [torch.zeros(count, GESTURE_HIDDEN)]
    with torch.no_grad():
        for time in range(GESTURE_SAMPLES):
            states.append(net(torch.from_numpy(sequences[:, time]), states[-1])[0])
    each = np.arange(count)
    return {"sample": sequences[each, times], "state": torch.stack(states).numpy()[times, each]}, truth


@dataclass(frozen=True)
class SmallTask:
    """A network with its data. `data(net, count, seed)` gives inputs by name, each (count, ...), and targets."""

    train: Callable[[], nn.Module]
    data: Callable[[nn.Module, int, int], tuple[Arrays, np.ndarray]]
    outputs: tuple[str, ...] = ("logits",)


def single(name: str, data: Callable[[int, int], tuple[np.ndarray, np.ndarray]]) -> Callable[..., Any]:
    def of(_: nn.Module, count: int, seed: int) -> tuple[Arrays, np.ndarray]:
        inputs, truth = data(count, seed)
        return {name: inputs}, truth

    return of


NETWORKS: Mapping[str, type[nn.Module]] = {"image": ImageNet, "imu": ImuNet, "gru": GruCell, "keyword": KeywordNet}
TASKS: Mapping[str, SmallTask] = {
    "image": SmallTask(train_image, single("canvas", nets.shapes)),
    "imu": SmallTask(train_imu, single("window", activities)),
    "gru": SmallTask(train_gru, rollouts, ("following", "logits")),
    "keyword": SmallTask(train_keyword, single("features", keywords)),
}


@functools.cache
def trained(name: str) -> nn.Module:
    """The network of that name, trained once per process."""
    return TASKS[name].train()


def write_bundle(path: Path, name: str, net: nn.Module, task: SmallTask | None = None) -> Bundle:
    """The bundle of a trained network: calibration, golden inputs, both splits, and top1 on the logits."""
    task = task or TASKS[name]
    calibration, _ = task.data(net, 128, 2)
    validation, validation_truth = task.data(net, 96, 3)
    test, test_truth = task.data(net, 64, 4)
    with BundleWriter(path, student=name, task="model", glue="model", recipe_hash="0" * 64) as writer:
        writer.add_graph(name, net, {key: value[:1] for key, value in validation.items()}, task.outputs)
        writer.calibration(name, calibration)
        writer.golden(name, {key: value[:32] for key, value in validation.items()})
        writer.uses({"query": {name: 1}})
        writer.settings({"graph": name, "metric": "top1", "output": "logits"})
        for split, inputs, truth in (("validation", validation, validation_truth), ("test", test, test_truth)):
            writer.split(split, {**{f"inputs/{key}": value for key, value in inputs.items()}, "targets": truth})
    return Bundle.open(path)
