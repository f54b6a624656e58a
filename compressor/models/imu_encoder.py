"""tiny-imu and tiny-imu-16: networks for windows of a body-worn inertial sensor, made for microcontrollers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHANNELS = 6


@dataclass(frozen=True)
class Shape:
    """Channels and stride of the stem (kernel 7), then of every block (depthwise kernel 5 + pointwise)."""

    stem: tuple[int, int]
    blocks: tuple[tuple[int, int], ...]


SHAPES = {
    "tiny-imu": Shape((24, 2), ((48, 2), (64, 1), (96, 2), (128, 2))),
    # For 16 KB of flash and 4 KB of RAM.
    "tiny-imu-16": Shape((16, 4), ((24, 2), (32, 1), (48, 2))),
}


class SeparableBlock(nn.Module):
    """Depthwise (1, 5), BN, ReLU, pointwise, BN, ReLU."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, (1, 5), (1, stride), (0, 2), groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class ImuEncoder(nn.Module):
    """Scaled windows (n, 6, length) or (n, 6, 1, length) -> features (n, num_features).

    Conv2d (1, k) and not Conv1d, ReLU, means over kept dimensions: what TFLite and microcontrollers like. `multi_scale`
    reads the mean over time of the stem and of every block, side by side; otherwise of the last block alone.
    """

    def __init__(self, name: str = "tiny-imu", multi_scale: bool = True) -> None:
        super().__init__()
        shape = SHAPES[name]
        channels, stride = shape.stem
        self.multi_scale = multi_scale
        self.stem = nn.Conv2d(CHANNELS, channels, (1, 7), (1, stride), (0, 3), bias=False)
        self.bn = nn.BatchNorm2d(channels)
        blocks, widths = [], [channels]
        for out_channels, stride in shape.blocks:
            blocks.append(SeparableBlock(widths[-1], out_channels, stride))
            widths.append(out_channels)
        self.blocks = nn.ModuleList(blocks)
        self.num_features = sum(widths) if multi_scale else widths[-1]

    def forward(self, windows: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(windows if windows.ndim == 4 else windows.unsqueeze(2))))
        means = [x.mean((2, 3), keepdim=True)]
        for block in self.blocks:
            x = block(x)
            means.append(x.mean((2, 3), keepdim=True))
        features = torch.cat(means, 1) if self.multi_scale else means[-1]
        return features.flatten(1)


class Projector(nn.Sequential):
    """Features -> an embedding to distil through: a linear layer, ReLU, a linear layer. Dropped afterwards."""

    def __init__(self, features: int, hidden: int, dim: int) -> None:
        super().__init__(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, dim))
