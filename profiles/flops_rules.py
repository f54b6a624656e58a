"""Multiply-accumulates of layers, from shapes alone. Shapes are sequences of ints; every function gives an int."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

Shape = Sequence[int]


def convolution_macs(batch: int, weight: Shape, positions: Shape) -> int:
    """Convolution in any number of dimensions, grouped or not: every weight is used once per position.

    weight: (out channels, in channels / groups, kernel...); positions: spatial shape of the output. For a transposed
    convolution, weight is (in channels, out channels / groups, kernel...) and positions the spatial shape of the input.
    """
    return batch * prod(weight) * prod(positions)


def matmul_macs(a: Shape, b: Shape) -> int:
    """Matrix product as in numpy.matmul: leading axes broadcast, vectors are allowed on either side.

    >>> matmul_macs((2, 5, 4), (4, 3))
    120
    """
    left = tuple(a) if len(a) > 1 else (1, *a)
    right = tuple(b) if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise ValueError(f"shapes {tuple(a)} and {tuple(b)} cannot be multiplied")
    return prod(broadcast(left[:-2], right[:-2])) * left[-2] * left[-1] * right[-1]


def attention_macs(query: Shape, key: Shape, value: Shape) -> int:
    """Scaled dot-product attention: query (..., L, E) with key (..., S, E), then the weights with value (..., S, Ev).

    Heads of key and value that are shared by several query heads are used by each: the leading axes are the query's.
    """
    leading = prod(query[:-2]) if len(query) >= len(key) else prod(key[:-2])
    return leading * query[-2] * key[-2] * (query[-1] + value[-1])


def recurrent_macs(steps: int, weights: Iterable[Shape]) -> int:
    """GRU, LSTM, RNN with any number of layers and directions: every matrix is used once per step and item.

    steps: time x batch; weights: shapes of all matrices (biases, of rank 1, are left out). One GRU layer from I to H
    has matrices (3 H, I) and (3 H, H), an LSTM 4 instead of 3 and, with a projection to P, (4 H, P) and (P, H).
    """
    return steps * sum(prod(shape) for shape in weights if len(shape) == 2)


def broadcast(*shapes: Shape) -> tuple[int, ...]:
    """The common shape of numpy's broadcasting. Raises ValueError if there is none."""
    rank = max(len(shape) for shape in shapes)
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Einstein summation, contracted from left to right in pairs, as torch (without opt_einsum) and ONNX Runtime do.

    A pair costs the product of the sizes of all its axes if it sums over one of them; a product without a sum is
    elementwise.
    An axis that only one operand has and the result does not is summed first, which is free.

    >>> einsum_macs("bij,bkj->bik", [(2, 5, 4), (2, 3, 4)])
    120
    """
    operands, result, sizes = _parse_einsum(equation, shapes)
    total, current = 0, operands[0]
    for index, operand in enumerate(operands[1:], start=1):
        needed = result.union(*operands[index + 1 :])
        # What only one of the two has and nobody needs is summed away before they meet.
        current, operand = current & (operand | needed), operand & (current | needed)
        both = current | operand
        if both - needed:
            total += prod(sizes[axis] for axis in both)
        current = both & needed
    return total


def _parse_einsum(equation: str, shapes: Sequence[Shape]) -> tuple[list[set[str]], set[str], dict[str, int]]:
    """Axes of every operand and of the result, and their sizes. Those of "..." are named 0, 1, ... from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"einsum {equation!r} needs {len(terms)} operands, not {len(shapes)}")
    sizes: dict[str, int] = {}
    operands = []
    for term, shape in zip(terms, shapes, strict=True):
        axes = _expand(term, len(shape))
        for axis, size in zip(axes, shape, strict=True):
            sizes[axis] = max(sizes.get(axis, 1), size)  # axes of size 1 broadcast
        operands.append(set(axes))
    everywhere = "".join(terms)
    if arrow:
        result = {axis for axis in sizes if axis in right or (axis.isdigit() and "..." in right)}
    else:  # implicit: what stands there once, and the ellipsis
        result = {axis for axis in sizes if axis.isdigit() or everywhere.count(axis) == 1}
    return operands, result, sizes


def _expand(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    if not dots:
        return list(term)
    hidden = rank - len(before) - len(after)
    return [*before, *(str(index) for index in reversed(range(hidden))), *after]
