"""Two more small networks, for the matrix of runtimes: a text transformer that takes token ids, and a network that sees
a clip as stacked frames. Their data have a closed form, too."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.targets import nets, small_nets

TOKENS, LENGTH, WIDTH, HEADS = 40, 16, 32, 2
PLACES = 4  # one of two marker words stands in one of the two halves of a sentence

FRAMES, CLIP_PX = 6, 20
DIRECTIONS = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer normalisation (arXiv:1706.03762, pre-norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries, self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.before(x)
        q, k, v = (
            layer(normal).reshape(-1, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(-1, LENGTH, WIDTH))
        return x + self.narrow(F.relu(self.wide(self.between(x))))


class TextNet(nn.Module):
    """Token ids (n, 16) int64 to logits (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.places = nn.Parameter(torch.randn(1, LENGTH, WIDTH) * 0.3)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, PLACES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(ids) + self.places)).mean(1))


class ClipNet(nn.Module):
    """A clip (n, 6, 20, 20), one frame per channel, to logits (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(FRAMES, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(nets.depthwise(24, 32, 2), nets.depthwise(32, 48, 1))
        self.head = nn.Linear(48, len(DIRECTIONS))

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.body(self.stem(frames)).mean((2, 3), keepdim=True).flatten(1))


def sentences(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (count, 16) int64 of filler words with one of the markers 0 and 1; and 2 x marker + the half it stands in."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, TOKENS, (count, LENGTH))
    truth = rng.integers(0, PLACES, count)
    ids[np.arange(count), truth % 2 * LENGTH // 2 + rng.integers(0, LENGTH // 2, count)] = truth // 2
    return ids, truth


def clips(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips (count, 6, 20, 20) float32 of a bright spot that moves in one of four directions; and which (count,)."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(DIRECTIONS), count)
    steps = np.arange(FRAMES) - (FRAMES - 1) / 2
    velocity = np.array(DIRECTIONS)[truth] * rng.uniform(1.0, 2.0, (count, 1))
    centre = rng.uniform(8, 12, (count, 1, 2)) + steps[None, :, None] * velocity[:, None]
    y, x = np.mgrid[:CLIP_PX, :CLIP_PX]
    squared = (y - centre[..., 0, None, None]) ** 2 + (x - centre[..., 1, None, None]) ** 2
    frames = np.exp(-squared / 5.0) + rng.normal(0, 0.15, squared.shape)
    return frames.astype(np.float32), truth


def train_text() -> nn.Module:
    return small_nets.classifier(nets.seeded(TextNet), sentences(4096, seed=1), 250)


def train_clip() -> nn.Module:
    return small_nets.classifier(nets.seeded(ClipNet), clips(2048, seed=1), 80)


TASKS = {
    "text": small_nets.SmallTask(train_text, small_nets.single("ids", sentences)),
    "clip": small_nets.SmallTask(train_clip, small_nets.single("frames", clips)),
}
