"""Encoders of the two modalities: a front end for each, and what runs over its frames: causal convolutions or a BiGRU.

Causal convolutions run step by step with the same result as over the whole clip; a BiGRU has to wait for the end. Masks
are (batch, frames) bool, true at frames that exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

AUDIO_STRIDE = 3  # 100 log-mel rows a second become 33, against 25 pictures


def stack_frames(frames: Tensor, count: int, black: float = 0.0) -> Tensor:
    """(batch, t, H, W) -> (batch, t, count, H, W): each picture with the `count - 1` before it, black before the first.

    In place of a 3D convolution over time: the stacked pictures are the channels of a 2D one, which every runtime has.
    """
    padded = functional.pad(frames, (0, 0, 0, 0, count - 1, 0), value=black)
    return torch.stack([padded[:, k : k + frames.shape[1]] for k in range(count)], dim=2)


class VideoFrontEnd(nn.Module):
    """(n, stack, H, W) in 0 to 1 -> (n, dim): strided convolutions, and a linear layer over all places."""

    def __init__(
        self, stack: int, channels: Sequence[int], first_stride: int, dim: int, height_px: int, width_px: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = stack
        for number, after in enumerate(channels):
            stride, wider = (2, 1) if number else (first_stride, 3)
            kernel = stride // 2 * 2 + wider  # odd: the output has a place for every `stride` pixels begun
            convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
            before, height_px, width_px = after, -(-height_px // stride), -(-width_px // stride)
        self.cnn = nn.Sequential(*layers)
        self.linear = nn.Linear(before * height_px * width_px, dim)
        self.stack = stack

    def forward(self, pictures: Tensor) -> Tensor:
        return self._of_centred(pictures - 0.5)

    def _of_centred(self, pictures: Tensor) -> Tensor:
        return torch.relu(self.linear(self.cnn(pictures).flatten(1)))

    def clip(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, t, H, W) -> (batch, t, dim), and the mask, which stays."""
        # centred before they are stacked: a third of the numbers
        pictures = stack_frames(frames - 0.5, self.stack, black=-0.5).flatten(0, 1)
        rows = self._of_centred(pictures.contiguous(memory_format=torch.channels_last))
        return rows.unflatten(0, frames.shape[:2]), mask


class AudioFrontEnd(nn.Module):
    """Log-mel (batch, u, mels) -> (batch, u / 3, dim). Each band is normalised by the training part's mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mels: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("std", torch.ones(mels))
        self.conv1 = nn.Conv1d(mels, dim, 5, AUDIO_STRIDE, 2)
        self.conv2 = nn.Conv1d(dim, dim, 3, 1, 1)

    def clip(self, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, u, mels), its mask -> (batch, v, dim), its mask. Frames beyond the end do not reach those before."""
        x = ((mel - self.mean) / self.std) * mask[..., None]
        shorter = mask[:, ::AUDIO_STRIDE]
        x = torch.relu(self.conv1(x.transpose(1, 2))) * shorter[:, None]
        return torch.relu(self.conv2(x)).transpose(1, 2) * shorter[..., None], shorter


class BiGRU(nn.Module):
    """Layers of two GRUs in opposite directions, exact for padded batches. Gives (batch, t, 2 hidden)."""

    def __init__(self, dim: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [dim, *[2 * hidden] * (layers - 1)]
        self.forwards = nn.ModuleList(nn.GRU(size, hidden, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(nn.GRU(size, hidden, batch_first=True) for size in sizes)
        self.dropout = dropout
        self.dim = 2 * hidden

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # Two one-way GRUs over a sequence turned around within its own length: a packed sequence costs a third more.
        place = torch.arange(mask.shape[1], device=mask.device)[None]
        lengths = mask.sum(1, keepdim=True)
        turned = torch.where(place < lengths, lengths - 1 - place, place)[..., None]
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            x = functional.dropout(x, self.dropout, self.training)
            reverse = back(x.gather(1, turned.expand_as(x)))[0]
            x = torch.cat([ahead(x)[0], reverse.gather(1, turned.expand_as(reverse))], dim=-1)
            x = x * mask[..., None]
        return x

    def last(self, memory: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states of both directions, (batch, 2 hidden)."""
        half = self.dim // 2
        return torch.cat([at_end(memory, mask)[:, :half], memory[:, 0, half:]], dim=-1)


class CausalBlock(nn.Module):
    """x + relu(BN(causal convolution of width 3 and a dilation))."""

    def __init__(self, dim: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm1d(dim)
        self.dilation, self.dropout = dilation, dropout

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, t) -> the same."""
        y = torch.relu(self.bn(self.conv(functional.pad(x, (2 * self.dilation, 0)))))
        return x + functional.dropout(y, self.dropout, self.training)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame (batch, dim) and the 2 dilation frames before it, (batch, 2 dilation, dim), oldest first; gives the
        frame's output and the new state. Batch norm is folded into the matrix, the convolution's three taps."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None and variance is not None
        scale = self.bn.weight * torch.rsqrt(variance + self.bn.eps)
        weight = (self.conv.weight * scale[:, None, None]).permute(0, 2, 1).flatten(1)
        bias = self.bn.bias - mean * scale
        taps = torch.cat([state[:, 0], state[:, self.dilation], x], dim=1)
        output = x + torch.relu(functional.linear(taps, weight, bias))
        return output, torch.cat([state[:, 1:], x[:, None]], dim=1)


class CausalEncoder(nn.Module):
    """Causal convolutions over time; gives (batch, t, dim)."""

    def __init__(self, dim: int, dilations: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CausalBlock(dim, dilation, dropout) for dilation in dilations)
        self.dilations = tuple(dilations)
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.transpose(1, 2) * mask[..., None]

    def last(self, memory: Tensor, mask: Tensor) -> Tensor:
        """The output at the last frame, (batch, dim)."""
        return at_end(memory, mask)

    @property
    def state_frames(self) -> int:
        """Frames in the state: those that the blocks look back at, one block's after the other's."""
        return 2 * sum(self.dilations)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame (batch, dim) and the state (batch, state_frames, dim), zero at first; gives the frame's output and
        the new state. See CausalBlock.step."""
        after, first = [], 0
        for block, dilation in zip(self.blocks, self.dilations, strict=True):
            x, own = block.step(x, state[:, first : first + 2 * dilation])  # type: ignore[operator]
            after.append(own)
            first += 2 * dilation
        return x, torch.cat(after, dim=1)


def at_end(memory: Tensor, mask: Tensor) -> Tensor:
    """Each row's frame at its last true place: (batch, t, dim) -> (batch, dim)."""
    return memory[torch.arange(memory.shape[0], device=memory.device), mask.sum(1) - 1]
