"""MEAN, SUM, REDUCE_MAX, REDUCE_MIN over any axes."""

from __future__ import annotations

import numpy as np

from targets.c.broadcast import contiguous, merged, nest, offset
from targets.c.fixed_point import quantize_multiplier, scale_of, zero_point_of
from targets.c.lower_copies import constant_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator


@lowering("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
def reduce(operator: Operator, emitter: Emitter) -> None:
    source, axes, output = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    if source is None or axes is None or {source.dtype, output.dtype} != {"int8"}:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    rank = len(source.shape)
    gone = sorted({int(axis) % rank for axis in constant_of(operator, axes).ravel()})
    kept = [axis for axis in range(rank) if axis not in gone]
    strides = contiguous(source.shape)
    inputs = merged([source.shape[axis] for axis in gone], [[strides[axis] for axis in gone]])
    sizes = [source.shape[axis] for axis in kept]
    outputs = merged(sizes, [contiguous(sizes), [strides[axis] for axis in kept]])
    if len(inputs.sizes) > 2:
        raise UnsupportedOperator(f"{operator.place}: it reduces three axes that are not neighbours")
    if output.size != int(np.prod(sizes, dtype=np.int64)):
        raise UnsupportedOperator(f"{operator.place}: the output has another size than what is left of the input")
    (outer, inner), (outer_step, inner_step) = ((1, *inputs.sizes)[-2:], (0, *inputs.strides[0])[-2:])
    multiplier, shift = _multiplier(operator, outer * inner)
    out_strides, in_strides = outputs.strides
    values = {
        "outer": outer, "outer_step": outer_step, "inner": inner, "inner_step": inner_step,
        "count": outputs.sizes[-1], "in_step": in_strides[-1], "out_step": out_strides[-1],
        "zeros": zero_point_of(source) * outer * inner, "multiplier": multiplier, "shift": shift,
        "zero_point": zero_point_of(output),
    }  # fmt: skip
    emitter.kernel("reduce")
    fields = ", ".join(f".{name} = {value}" for name, value in values.items())
    emitter.call(f"static const struct reduce parameters = {{{fields}}};")
    name, sign = {"REDUCE_MAX": ("extreme", ", 1"), "REDUCE_MIN": ("extreme", ", -1")}.get(operator.kind, ("sum", ""))
    out_of, into = (
        f"{emitter.ref(tensor)}{offset(walk[:-1])}" for tensor, walk in ((source, in_strides), (output, out_strides))
    )
    emitter.call(nest(outputs.sizes[:-1], f"{name}_int8({out_of}, {into}, &parameters{sign});"))


def _multiplier(operator: Operator, count: int) -> tuple[int, int]:
    """From the sum of `count` values to the output; (0, 0) for the extremes, which are not rescaled."""
    source, output = operator.inputs[0], operator.outputs[0]
    assert source is not None
    scale, out_scale = scale_of(source, operator), scale_of(output, operator)
    if operator.kind in ("REDUCE_MAX", "REDUCE_MIN"):
        if scale != out_scale or zero_point_of(source) != zero_point_of(output):
            raise UnsupportedOperator(f"{operator.place}: the input is quantised otherwise than the output")
        return 0, 0
    multiplier, shift = quantize_multiplier(float(scale) / float(out_scale))
    if operator.kind == "SUM":
        return multiplier, shift
    # QuantizedMeanOrSum: 1/count joins the multiplier, with as many bits as the shift leaves
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits
