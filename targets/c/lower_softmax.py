"""SOFTMAX: the exponential of every difference that can occur is a table, the rest is integer arithmetic."""

from __future__ import annotations

import math

import numpy as np

from targets.c.fixed_functions import exp_on_negative_values
from targets.c.fixed_point import multiply_by_quantized_multiplier, quantize_multiplier, scale_of, zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator

INTEGER_BITS = 5  # of the difference to the largest value
MAX_DEPTH = 4095  # the sum of the exponentials has 12 integer bits


@lowering("SOFTMAX")
def softmax(operator: Operator, emitter: Emitter) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    if source is None or {source.dtype, output.dtype} != {"int8"}:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    if float(scale_of(output, operator)) != 1 / 256 or zero_point_of(output) != -128:
        raise UnsupportedOperator(f"{operator.place}: the output must have scale 1/256 and zero point -128")
    depth = source.shape[-1]
    if depth > MAX_DEPTH:
        raise UnsupportedOperator(f"{operator.place}: {depth} values are more than {MAX_DEPTH}")
    real = float(np.float32(operator.options["beta"])) * float(scale_of(source, operator))
    real = min(real * (1 << (31 - INTEGER_BITS)), (1 << 31) - 1.0)
    if real <= 1:
        raise UnsupportedOperator(f"{operator.place}: the scale of the input, times beta, is below 2^-26")
    multiplier, shift = quantize_multiplier(real)
    radius = math.floor(((1 << INTEGER_BITS) - 1) * 2.0 ** (31 - INTEGER_BITS - shift))
    differences = -np.arange(min(radius, 255) + 1)
    scaled = multiply_by_quantized_multiplier(differences, multiplier, shift)
    table = exp_on_negative_values(scaled, INTEGER_BITS).astype(np.int32)
    emitter.kernel("softmax")
    emitter.in_place(output, source)
    emitter.call(
        f"softmax_int8({emitter.ref(source)}, {emitter.ref(output)}, {source.size // depth}, {depth}, "
        f"{emitter.constant('exponentials', table)}, {table.size});"
    )
