"""Operators that only put elements elsewhere.

CONCATENATION, SPLIT, SPLIT_V, PACK, UNPACK, SLICE, STRIDED_SLICE, TRANSPOSE, PAD, PADV2. As in TFLite-Micro none of
them rescales: the quantisation of what goes in is that of what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from targets.c.broadcast import contiguous
from targets.c.copies import strided_copy
from targets.c.fixed_point import zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor


@lowering("CONCATENATION")
def concatenation(operator: Operator, emitter: Emitter) -> None:
    output = operator.outputs[0]
    if operator.options.get("fusedActivationFunction", 0):
        raise UnsupportedOperator(f"{operator.place}: a fused activation is not supported")
    axis = operator.options["axis"] % len(output.shape)
    strides, start = contiguous(output.shape), 0
    for source in _inputs(operator):
        _same_quantization(operator, source, output)
        strided_copy(
            emitter, output, source, source.shape, output_strides=strides, source_strides=contiguous(source.shape),
            output_base=start * strides[axis],
        )  # fmt: skip
        start += source.shape[axis]


@lowering("SPLIT")
def split(operator: Operator, emitter: Emitter) -> None:
    axis, source = _inputs(operator)
    _split(operator, emitter, source, axis)


@lowering("SPLIT_V")
def split_v(operator: Operator, emitter: Emitter) -> None:
    source, _, axis = _inputs(operator)
    _split(operator, emitter, source, axis)


def _split(operator: Operator, emitter: Emitter, source: Tensor, axis_tensor: Tensor) -> None:
    axis = int(constant_of(operator, axis_tensor)) % len(source.shape)
    strides, start = contiguous(source.shape), 0
    for output in operator.outputs:
        _same_quantization(operator, source, output)
        strided_copy(
            emitter, output, source, output.shape, output_strides=contiguous(output.shape), source_strides=strides,
            source_base=start * strides[axis],
        )  # fmt: skip
        start += output.shape[axis]


@lowering("PACK")
def pack(operator: Operator, emitter: Emitter) -> None:
    output = operator.outputs[0]
    axis = operator.options["axis"] % len(output.shape)
    strides = contiguous(output.shape)
    for i, source in enumerate(_inputs(operator)):
        _same_quantization(operator, source, output)
        strided_copy(
            emitter, output, source, source.shape, output_strides=strides[:axis] + strides[axis + 1 :],
            source_strides=contiguous(source.shape), output_base=i * strides[axis],
        )  # fmt: skip


@lowering("UNPACK")
def unpack(operator: Operator, emitter: Emitter) -> None:
    (source,) = _inputs(operator)
    axis = operator.options["axis"] % len(source.shape)
    strides = contiguous(source.shape)
    for i, output in enumerate(operator.outputs):
        _same_quantization(operator, source, output)
        strided_copy(
            emitter, output, source, output.shape, output_strides=contiguous(output.shape),
            source_strides=strides[:axis] + strides[axis + 1 :], source_base=i * strides[axis],
        )  # fmt: skip


@lowering("TRANSPOSE")
def transpose(operator: Operator, emitter: Emitter) -> None:
    source, permutation = _inputs(operator)
    output = operator.outputs[0]
    _same_quantization(operator, source, output)
    strides = contiguous(source.shape)
    order = [int(axis) % len(strides) for axis in constant_of(operator, permutation).ravel()]
    walk = [strides[axis] for axis in order]
    moving = [axis for axis in order if source.shape[axis] != 1]
    if moving == sorted(moving):  # only axes of one element change places
        emitter.alias(output, source)
        return
    strided_copy(
        emitter, output, source, output.shape, output_strides=contiguous(output.shape), source_strides=walk
    )  # fmt: skip


@lowering("SLICE")
def slice_(operator: Operator, emitter: Emitter) -> None:
    source, begin, _ = _inputs(operator)
    starts = [int(value) for value in constant_of(operator, begin).ravel()]
    _slice(operator, emitter, source, starts, [1] * len(starts), operator.outputs[0].shape)


@lowering("STRIDED_SLICE")
def strided_slice(operator: Operator, emitter: Emitter) -> None:
    source = _inputs(operator)[0]
    options, rank = operator.options, len(source.shape)
    for mask in ("ellipsisMask", "newAxisMask", "offset"):
        if options.get(mask, 0):
            raise UnsupportedOperator(f"{operator.place}: {mask} is not supported")
    begins, ends, steps = ([int(v) for v in constant_of(operator, t).ravel()] for t in _inputs(operator)[1:])
    if len(begins) != rank:
        raise UnsupportedOperator(f"{operator.place}: it must say where every axis begins")
    starts, sizes = [], []
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        first = None if options["beginMask"] >> axis & 1 else begin
        last = None if options["endMask"] >> axis & 1 else end
        if options["shrinkAxisMask"] >> axis & 1:
            starts.append(range(source.shape[axis])[begin] if first is not None else 0)
            sizes.append(1)
        else:
            taken = range(source.shape[axis])[first:last:step]
            starts.append(taken.start)
            sizes.append(len(taken))
    _slice(operator, emitter, source, starts, steps, sizes)


def _slice(
    operator: Operator,
    emitter: Emitter,
    source: Tensor,
    starts: Sequence[int],
    steps: Sequence[int],
    sizes: Sequence[int],
) -> None:
    output = operator.outputs[0]
    _same_quantization(operator, source, output)
    if output.size != int(np.prod(sizes, dtype=np.int64)) or output.size == 0:
        raise UnsupportedOperator(f"{operator.place}: the output has another size than the slice {tuple(sizes)}")
    strides = contiguous(source.shape)
    if source.size == output.size and all(step > 0 for step in steps):
        emitter.alias(output, source)
        return
    strided_copy(
        emitter, output, source, sizes, output_strides=contiguous(sizes),
        source_strides=[stride * step for stride, step in zip(strides, steps, strict=True)],
        source_base=sum(start * stride for start, stride in zip(starts, strides, strict=True)),
    )  # fmt: skip


@lowering("PAD", "PADV2")
def pad(operator: Operator, emitter: Emitter) -> None:
    source, paddings, *fill = _inputs(operator)
    output = operator.outputs[0]
    _same_quantization(operator, source, output)
    if output.dtype != "int8":
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    before = constant_of(operator, paddings).reshape(-1, 2)[:, 0]
    value = int(constant_of(operator, fill[0]).ravel()[0]) if fill else zero_point_of(output)
    strides = contiguous(output.shape)
    emitter.call(f"memset({emitter.ref(output)}, {value}, {output.bytes});")
    strided_copy(
        emitter, output, source, source.shape, output_strides=strides, source_strides=contiguous(source.shape),
        output_base=int(sum(int(count) * stride for count, stride in zip(before, strides, strict=True))),
    )  # fmt: skip


def constant_of(operator: Operator, tensor: Tensor) -> np.ndarray:
    """The value of a tensor that must be constant. Raises UnsupportedOperator if it is computed."""
    if tensor.data is None:
        raise UnsupportedOperator(f"{operator.place}: tensor {tensor.name} must be constant")
    return tensor.data


def _inputs(operator: Operator) -> list[Tensor]:
    return [tensor for tensor in operator.inputs if tensor is not None]


def _same_quantization(operator: Operator, source: Tensor, output: Tensor) -> None:
    scales = [tensor.scale.tolist() for tensor in (source, output)]
    zeros = [tensor.zero_point.tolist() for tensor in (source, output)]
    if source.dtype != output.dtype or scales[0] != scales[1] or zeros[0] != zeros[1]:
        raise UnsupportedOperator(f"{operator.place}: {source.name} is quantised otherwise than {output.name}")
