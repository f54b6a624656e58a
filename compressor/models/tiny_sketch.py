"""tiny-sketch and tiny-sketch-16: networks drawn for small canvases of line drawings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# (output channels at width 1, stride, repeats): 32 px become 16, 16, 8, 4. A photo network's stride of 32 would
# leave one position of such a canvas; here the last blocks still see 4 x 4.
BLOCKS = {
    "tiny-sketch": ((32, 1, 1), (64, 2, 2), (128, 2, 3)),
    # Two blocks more at 2 x 2: parameters where a multiplication is used least often.
    "tiny-sketch-16": ((32, 1, 1), (64, 2, 2), (128, 2, 3), (256, 2, 2)),
}
STEM = 16


def _channels(base: int, width: float) -> int:
    """Multiples of 8: what vector units and int8 kernels want."""
    return max(8, int(base * width / 8 + 0.5) * 8)


class SeparableBlock(nn.Module):
    """Depthwise 3x3, BN, ReLU, pointwise, BN, ReLU, with a residual where the shape stays."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.depthwise(x)))
        y = self.bn2(self.pointwise(y))
        return torch.relu(x + y) if self.residual else torch.relu(y)


class TinySketch(nn.Module):
    """Depthwise-separable network of stride 8 or 16: (n, in_channels, px, px) -> pooled features (n, num_features).

    `width` multiplies every channel count. Only Conv2d, BN, ReLU, addition and a mean: it folds, quantises and
    exports everywhere. px is a multiple of 8; `name` is one of BLOCKS.
    """

    def __init__(self, in_channels: int = 1, width: float = 1.0, name: str = "tiny-sketch") -> None:
        super().__init__()
        channels = _channels(STEM, width)
        self.stem = nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        blocks = []
        for base, stride, repeats in BLOCKS[name]:
            for index in range(repeats):
                out = _channels(base, width)
                blocks.append(SeparableBlock(channels, out, stride if index == 0 else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.num_features = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.stem(x))))
        # Kept dimensions: without them TFLite adds a transpose.
        return x.mean((2, 3), keepdim=True).flatten(1)
