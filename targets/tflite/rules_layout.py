"""Rules that always apply: one-dimensional layers as two-dimensional ones, films as stacks of pictures, and means that
keep the layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from targets.tflite.forms import Frames, Line, Turned, axes_of, rank_of
from targets.tflite.rewrite import DECLINED, Deferred, Rule, plain

# Element by element, or by channel: the same for every layout that keeps axis 1 the channels.
POINTWISE = frozenset(
    f"aten.{name}"
    for name in (
        "abs.default", "add.Tensor", "batch_norm.default", "clamp.default", "clamp_min.default", "clone.default",
        "contiguous.default", "div.Tensor", "dropout.default", "elu.default", "gelu.default", "hardsigmoid.default",
        "hardswish.default", "hardtanh.default", "leaky_relu.default", "mul.Tensor", "neg.default", "relu.default",
        "relu6.default", "relu_.default", "sigmoid.default", "silu.default", "sub.Tensor", "tanh.default",
    )
)  # fmt: skip


# -- one dimension ---------------------------------------------------------------------------------------------------


def _line(value: Any) -> Any:
    """(N, C, 1, L) of a (N, C, L) value in whatever form."""
    if isinstance(value, Line):
        return value.value
    if isinstance(value, Turned):
        return value.value.unsqueeze(1).permute(0, 3, 1, 2)
    return plain(value).unsqueeze(2)


def _one(value: Any) -> int:
    """The only number of an argument that may be a list of one."""
    return int(value[0]) if isinstance(value, (list, tuple)) else int(value)


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    from torch.nn import functional

    around = padding if isinstance(padding, str) else (0, _one(padding))
    steps, spread = (1, _one(stride)), (1, _one(dilation))
    return Line(functional.conv2d(_line(x), weight.unsqueeze(2), bias, steps, around, spread, groups))


def conv_transpose1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    from torch.nn import functional

    steps, around, extra = (1, _one(stride)), (0, _one(padding)), (0, _one(output_padding))
    spread = (1, _one(dilation))
    return Line(functional.conv_transpose2d(_line(x), weight.unsqueeze(2), bias, steps, around, extra, groups, spread))


def conv_transpose2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """Without output padding, which does not convert: the whole result, cut."""
    from torch.nn import functional

    (top, left), (below, right) = (_two(padding), _two(output_padding))
    if not (below or right) or below > top or right > left:
        return DECLINED
    whole = functional.conv_transpose2d(plain(x), weight, bias, stride, 0, 0, groups, dilation)
    return whole[:, :, top : whole.shape[2] - top + below, left : whole.shape[3] - left + right]


def _two(value: Any) -> list[int]:
    numbers = [int(number) for number in (value if isinstance(value, (list, tuple)) else [value])]
    return numbers * (2 if len(numbers) == 1 else 1)


def max_pool1d(
    x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    from torch.nn import functional

    size = (1, _one(kernel))
    steps = (1, _one(stride)) if stride else size
    spread = (1, _one(dilation))
    return Line(functional.max_pool2d(_line(x), size, steps, (0, _one(padding)), spread, ceil_mode))


def avg_pool1d(
    x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Any:
    from torch.nn import functional

    size = (1, _one(kernel))
    steps = (1, _one(stride)) if stride else size
    return Line(functional.avg_pool2d(_line(x), size, steps, (0, _one(padding)), ceil_mode, count_include_pad))


def adaptive_avg_pool1d(x: Any, size: Any) -> Any:
    return Line(_line(x).mean(3, keepdim=True)) if _one(size) == 1 and rank_of(x) == 3 else DECLINED


def cat(values: Sequence[Any], axis: int = 0) -> Any:
    if not any(isinstance(value, Line) for value in values):
        return DECLINED
    import torch

    return Line(torch.cat([_line(value) for value in values], {0: 0, 1: 1, 2: 3}[axis % 3]))


def pad(x: Any, sizes: Sequence[int], *more: Any) -> Any:
    if not isinstance(x, Line) or len(sizes) != 2 or (more and more[0] != "constant"):
        return DECLINED
    from torch.nn import functional

    return Line(functional.pad(x.value, list(sizes), "constant", *(v for v in more[1:] if v is not None)))


def cut(x: Any, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    if not isinstance(x, Line):
        return DECLINED
    axis = {0: 0, 1: 1, 2: 3}[axis % 3]
    return Line(x.value[tuple([slice(None)] * axis + [slice(start, end, step)])])


def transpose(x: Any, first: int, second: int) -> Any:
    if isinstance(x, (Line, Frames)) or rank_of(x) == 3:
        axes = list(range(rank_of(x)))
        axes[first], axes[second] = axes[second], axes[first]
        return permute(x, axes)
    return DECLINED


def permute(x: Any, axes: Sequence[int]) -> Any:
    axes = [axis % len(axes) for axis in axes]
    if isinstance(x, Line) and axes == [0, 2, 1]:
        return x.value.permute(0, 2, 3, 1).squeeze(1)
    if isinstance(x, Frames) and axes == [0, 2, 1, 3, 4]:
        return x.unstacked()
    if isinstance(x, Turned) and axes == [0, 2, 1]:
        return x.value
    if not isinstance(x, Deferred) and axes == [0, 2, 1]:
        return Turned(x)
    return DECLINED


def flatten(x: Any, start: int = 0, end: int = -1) -> Any:
    return x.value.flatten(1) if isinstance(x, Line) and start == 1 and end in (-1, 2) else DECLINED


def squeeze(x: Any, axes: Any) -> Any:
    last = [axis % 3 for axis in (axes if isinstance(axes, (list, tuple)) else [axes])] == [2]
    return x.value.flatten(1) if isinstance(x, Line) and last and x.value.shape[3] == 1 else DECLINED


# -- three dimensions ------------------------------------------------------------------------------------------------


def _frames(value: Any) -> Frames:
    """(N, C, T, H, W) in whatever form."""
    if isinstance(value, Frames):
        return value
    value = plain(value)
    return Frames(value.transpose(1, 2).flatten(0, 1), value.shape[0])


def conv3d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """A sum over the kernel's depth of two-dimensional convolutions of single pictures. Without groups it is one
    convolution, of as many pictures stacked as channels as the kernel is deep."""
    import torch
    from torch.nn import functional

    film, depth = _frames(x), weight.shape[2]
    (steps, *stride2), (spread, *dilation2) = (_three(value) for value in (stride, dilation))
    around, padding2 = _padding(padding, weight.shape[2:], [spread, *dilation2])
    pictures = film.unstacked() if film.rows > 1 else film.value.unsqueeze(0)
    if any(around):
        pictures = functional.pad(pictures[0], [0] * 6 + around).unsqueeze(0) if film.rows == 1 else functional.pad(
            pictures, [0] * 6 + around
        )  # fmt: skip
    count = (pictures.shape[1] - spread * (depth - 1) - 1) // steps + 1
    pieces = [_every(pictures, i * spread, count, steps) for i in range(depth)]
    if groups == 1:
        flat = weight.transpose(1, 2).flatten(1, 2)  # (out, depth * in, height, width)
        value = functional.conv2d(torch.cat(pieces, 1), flat, bias, stride2, padding2, dilation2)
    else:
        value = functional.conv2d(pieces[0], weight[:, :, 0], bias, stride2, padding2, dilation2, groups)
        for i, piece in enumerate(pieces[1:], 1):
            value = value + functional.conv2d(piece, weight[:, :, i], None, stride2, padding2, dilation2, groups)
    return Frames(value, film.rows)


def _every(pictures: Any, start: int, count: int, step: int) -> Any:
    """`count` pictures of (N, T, C, H, W) from `start` on, as (N * count, C, H, W)."""
    end = start + (count - 1) * step + 1
    if pictures.shape[0] == 1:  # four axes are all that most kernels take
        return pictures[0][start:end:step]
    return pictures[:, start:end:step].flatten(0, 1)


def _three(value: Any) -> list[int]:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(number) for number in numbers] * (3 if len(numbers) == 1 else 1)


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[list[int], Any]:
    """([before, after] in time, padding of the pictures)."""
    if isinstance(padding, str):
        total = dilation[0] * (kernel[0] - 1) if padding == "same" else 0
        return [total // 2, total - total // 2], padding
    first, *rest = _three(padding)
    return [first, first], rest


def max_pool3d(
    x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    from torch.nn import functional

    size, around, spread = _three(kernel), _three(padding), _three(dilation)
    steps = _three(stride) if stride else size
    if size[0] != 1 or steps[0] != 1 or around[0]:
        return DECLINED
    film = _frames(x)
    return film.with_value(functional.max_pool2d(film.value, size[1:], steps[1:], around[1:], spread[1:], ceil_mode))


def avg_pool3d(x: Any, kernel: Any, stride: Any = (), padding: Any = 0, *more: Any) -> Any:
    from torch.nn import functional

    size, around = _three(kernel), _three(padding)
    steps = _three(stride) if stride else size
    if size[0] != 1 or steps[0] != 1 or around[0]:
        return DECLINED
    film = _frames(x)
    return film.with_value(functional.avg_pool2d(film.value, size[1:], steps[1:], around[1:], *more))


# -- reductions ------------------------------------------------------------------------------------------------------


def mean(x: Any, axes: Any, keepdim: bool = False, dtype: Any = None) -> Any:
    """The axes are kept and the rest is flattened behind it: else the layout is turned before."""
    rank = rank_of(x)
    over = axes_of(axes, rank)
    if dtype is not None or rank_of(x) not in (3, 4, 5):
        return DECLINED
    if isinstance(x, Line) and over == [2]:
        kept = x.value.mean(3, keepdim=True)
        return Line(kept) if keepdim else kept.flatten(1)
    if isinstance(x, Frames) and not keepdim and over == [3, 4]:
        kept = x.value.mean((2, 3), keepdim=True).flatten(1)
        return Turned(kept.reshape(x.rows, -1, kept.shape[1]))
    if isinstance(x, Frames) and not keepdim and over == [2, 3, 4]:
        kept = x.value.mean((2, 3), keepdim=True).flatten(1)
        return kept.reshape(x.rows, -1, kept.shape[1]).mean(1)
    if rank == 4 and over == [2, 3] and not keepdim:
        return plain(x).mean((2, 3), keepdim=True).flatten(1)
    return DECLINED


RULES: dict[str, Rule] = {
    "aten.conv1d.default": conv1d,
    "aten.conv1d.padding": conv1d,
    "aten.conv_transpose1d.default": conv_transpose1d,
    "aten.conv_transpose2d.input": conv_transpose2d,
    "aten.max_pool1d.default": max_pool1d,
    "aten.avg_pool1d.default": avg_pool1d,
    "aten.adaptive_avg_pool1d.default": adaptive_avg_pool1d,
    "aten.cat.default": cat,
    "aten.pad.default": pad,
    "aten.slice.Tensor": cut,
    "aten.transpose.int": transpose,
    "aten.permute.default": permute,
    "aten.flatten.using_ints": flatten,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.conv3d.default": conv3d,
    "aten.conv3d.padding": conv3d,
    "aten.max_pool3d.default": max_pool3d,
    "aten.avg_pool3d.default": avg_pool3d,
    "aten.mean.dim": mean,
}
