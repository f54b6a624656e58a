"""Small real networks and a small real task for the tests of targets: circles, squares, triangles and crosses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE_PX = 16
CLASSES = 4


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 1, 16, 16) float32 of outlines with noise, and their classes (count,)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, count)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX].astype(np.float32)
    images = np.empty((count, 1, SIZE_PX, SIZE_PX), np.float32)
    for i, kind in enumerate(truth):
        cx, cy = rng.uniform(6.5, 8.5, 2)
        radius = rng.uniform(4.0, 6.0)
        dx, dy = x - cx, y - cy
        distance = [
            np.abs(np.hypot(dx, dy) - radius),
            np.abs(np.maximum(np.abs(dx), np.abs(dy)) - radius),
            np.abs(np.maximum(dy, np.abs(dx) * 1.7 - dy) - radius * 0.8),
            np.minimum(np.abs(dx), np.abs(dy)) + np.maximum(0, np.maximum(np.abs(dx), np.abs(dy)) - radius),
        ][kind]
        images[i, 0] = np.clip(1.5 - distance, 0, 1) + rng.normal(0, 0.1, (SIZE_PX, SIZE_PX))
    return images, truth


def depthwise(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, outer, 1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
    )


class ShapeNet(nn.Module):
    """A depthwise-separable network like the students of this project; one output, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(depthwise(16, 32, 2), depthwise(32, 32, 1), depthwise(32, 64, 2))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, canvas: Tensor) -> Tensor:
        return self.head(self.body(self.stem(canvas)).mean((2, 3), keepdim=True).flatten(1))


class Small(nn.Module):
    """The least that has weights and takes a canvas of any size: for tests in which the network does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, CLASSES, 3)

    def forward(self, canvas: Tensor) -> Tensor:
        return self.layer(canvas).mean((2, 3))


class Pair(nn.Module):
    """Two inputs, two outputs: what joins a picture and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.vector = nn.Conv2d(1, 4, 3), nn.Linear(6, 4)

    def forward(self, image: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        joined = self.picture(image).relu().mean((2, 3)) + self.vector(numbers)
        return joined, torch.tanh(joined).sum(1, keepdim=True)


class Words(nn.Module):
    """Integer inputs: a bag of words with layer normalisation and attention-like softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.out = nn.Embedding(50, 16), nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.table(ids))
        weights = torch.softmax(x @ x.transpose(1, 2) / 4, dim=-1)
        return self.out((weights @ x).mean(1))


def seeded(factory: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return factory().eval()


def train_shape_net(steps: int = 120) -> ShapeNet:
    """A ShapeNet that knows its shapes (a few seconds on one core)."""
    torch.manual_seed(0)
    net = ShapeNet()
    images, truth = (torch.from_numpy(value) for value in shapes(2048, seed=1))
    fit(net, lambda rows: F.cross_entropy(net(images[rows]), truth[rows]), len(images), steps)
    return net


def fit(net: nn.Module, loss: Callable[[Tensor], Tensor], items: int, steps: int, peak_rate: float = 1e-2) -> None:
    """Train with AdamW and one cycle on `loss(rows)` of 64 random items a step; leaves the network in eval mode."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads of so small a network wait for each other
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        value = loss(torch.from_numpy(rng.integers(0, items, 64)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    torch.set_num_threads(threads)
    net.eval()
