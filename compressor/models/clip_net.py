"""clip-net: a small spatio-temporal network that looks at rendered clips of a moving body."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClipNet(nn.Module):
    """Clips (n, frames, px, px) in [0, 1] -> embeddings (n, dim), not normalised.

    Every three neighbouring frames are the channels of one picture (so that motion is seen by the first layer), four
    convolutions with stride 2 look at each, and two temporal convolutions at their sequence; the readout is the mean
    and the spread over time. px is a multiple of 16; at least three frames.
    """

    def __init__(self, px: int, dim: int, width: int = 16) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        channels = 3
        for out_channels in widths:
            layers += [
                nn.Conv2d(channels, out_channels, 3, 2, 1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels = out_channels
        self.spatial = nn.Sequential(*layers)
        flat = channels * (px // 16) ** 2
        hidden = 8 * width
        self.temporal = nn.Sequential(
            nn.Conv1d(flat, hidden, 1, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
            nn.Conv1d(hidden, hidden, 3, 1, 1, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
            nn.Conv1d(hidden, hidden, 3, 1, 1, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Linear(2 * hidden, dim)

    def forward(self, clips: Tensor) -> Tensor:
        count, frames, height, width = clips.shape
        steps = frames - 2
        pictures = torch.stack([clips[:, i : i + steps] for i in range(3)], 2).reshape(-1, 3, height, width)
        seen = self.spatial(pictures.contiguous(memory_format=torch.channels_last))
        sequence = self.temporal(seen.flatten(1).reshape(count, steps, -1).transpose(1, 2))
        spread = (sequence.var(-1, unbiased=False) + 1e-5).sqrt()
        return self.head(torch.cat([sequence.mean(-1), spread], 1))
