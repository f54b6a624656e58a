"""Broadcasting as loops: which axes can be walked as one, and by what stride each operand moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Loops:
    """Axes from the outermost to the innermost; `strides[operand][axis]` in elements, 0 where it is repeated."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


def broadcast_loops(output: Sequence[int], *operands: Sequence[int]) -> Loops:
    """The fewest loops that walk `output` in order. Raises ValueError if an operand does not broadcast to it."""
    walks = [tuple(output), *operands]
    strides = [_strides(shape, output) for shape in walks]
    return merged(output, strides)


def merged(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> Loops:
    """Drop axes of size 1 and join neighbours that every operand walks as one. There is at least one axis."""
    kept: list[tuple[int, list[int]]] = []
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        here = [walk[axis] for walk in strides]
        if kept and all(outer == inner * size for outer, inner in zip(kept[-1][1], here, strict=True)):
            kept[-1] = (kept[-1][0] * size, here)
        else:
            kept.append((size, here))
    kept = kept or [(1, [1] * len(strides))]
    return Loops(tuple(size for size, _ in kept), tuple(zip(*(walk for _, walk in kept), strict=True)))


def contiguous(shape: Sequence[int]) -> list[int]:
    """Strides of an array in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]


def _strides(shape: Sequence[int], output: Sequence[int]) -> list[int]:
    if len(shape) > len(output):
        raise ValueError(f"{tuple(shape)} does not broadcast to {tuple(output)}")
    padded = [1] * (len(output) - len(shape)) + list(shape)
    if any(have not in (1, want) for have, want in zip(padded, output, strict=True)):
        raise ValueError(f"{tuple(shape)} does not broadcast to {tuple(output)}")
    return [0 if size == 1 else stride for size, stride in zip(padded, contiguous(padded), strict=True)]


def nest(sizes: Sequence[int], body: str) -> str:
    """`body` inside one C loop per size, with the indices i0, i1, ..."""
    lines = []
    for depth, size in enumerate(sizes):
        lines.append("  " * depth + f"for (int i{depth} = 0; i{depth} < {size}; i{depth}++) {{")
    lines += ["  " * len(sizes) + line for line in body.splitlines()]
    lines += ["  " * depth + "}" for depth in reversed(range(len(sizes)))]
    return "\n".join(lines)


def offset(strides: Sequence[int], base: int = 0) -> str:
    """ "" or " + i0 * 4 + i1 ...": what is added to a pointer inside `nest`."""
    terms = [f" + i{axis} * {stride}" for axis, stride in enumerate(strides) if stride]
    return (f" + {base}" if base else "") + "".join(terms)
