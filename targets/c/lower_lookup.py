"""Functions of one int8 value, as tables that are computed here: LOGISTIC, TANH, HARD_SWISH, RELU, RELU6, LEAKY_RELU,
ABS, RSQRT and QUANTIZE from int8 to int8. Each entry is what TFLite-Micro's integer kernel gives for that byte."""

from __future__ import annotations

import math

import numpy as np

from targets.c.fixed_functions import inverse_square_root, logistic, tanh
from targets.c.fixed_point import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    round_away,
    rounding_divide_by_power,
    scale_of,
    zero_point_of,
)
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor

BYTES = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)  # the order of the tables


def _emit(operator: Operator, emitter: Emitter, values: np.ndarray) -> None:
    source, output = _tensors(operator)
    table = emitter.constant(f"{operator.kind.lower()}_table", np.clip(values, -128, 127).astype(np.int8))
    emitter.kernel("lookup")
    emitter.in_place(output, source)
    emitter.call(f"lookup_int8({table}, {emitter.ref(source)}, {emitter.ref(output)}, {output.size});")


@lowering("LOGISTIC")
def logistic_(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    _fixed_output(operator, output, 1 / 256, -128)
    inside, values = _four_integer_bits(source, operator)
    result = rounding_divide_by_power(logistic(values, 4), 23) - 128
    _emit(operator, emitter, np.where(inside == 0, result, 127 * (inside > 0) - 128 * (inside < 0)))


@lowering("TANH")
def tanh_(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    _fixed_output(operator, output, 1 / 128, 0)
    inside, values = _four_integer_bits(source, operator)
    result = rounding_divide_by_power(tanh(values, 4), 24)
    _emit(operator, emitter, np.where(inside == 0, result, 127 * (inside > 0) - 128 * (inside < 0)))


def _four_integer_bits(source: Tensor, operator: Operator) -> tuple[np.ndarray, np.ndarray]:
    """Per byte: -1, 0, 1 for below, within and above what 4 integer bits hold, and the value (0 where outside)."""
    fraction, shift = math.frexp(float(scale_of(source, operator)) * (1 << 27))
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    radius = math.floor(15 * 2.0 ** (27 - shift))  # CalculateInputRadius
    values = BYTES - zero_point_of(source)
    inside = np.where(values <= -radius, -1, np.where(values >= radius, 1, 0))
    return inside, multiply_by_quantized_multiplier(np.where(inside == 0, values, 0), multiplier, shift)


@lowering("RELU")
def relu(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    multiplier, shift = quantize_multiplier(float(scale_of(source, operator) / scale_of(output, operator)))
    scaled = multiply_by_quantized_multiplier(BYTES - zero_point_of(source), multiplier, shift)
    _emit(operator, emitter, np.maximum(scaled + zero_point_of(output), zero_point_of(output)))


@lowering("RELU6")
def relu6(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    if scale_of(source, operator) != scale_of(output, operator) or zero_point_of(source) != zero_point_of(output):
        raise UnsupportedOperator(f"{operator.place}: the input is quantised otherwise than the output")
    zero = zero_point_of(source)
    six = np.clip(round_away(np.float32(6) / scale_of(source, operator)) + zero, -128, 127)
    _emit(operator, emitter, np.where(six < BYTES, six, np.maximum(BYTES, zero)))


@lowering("LEAKY_RELU")
def leaky_relu(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    scale, out_scale = scale_of(source, operator), scale_of(output, operator)
    slope = float(np.float32(scale * np.float32(operator.options["alpha"])) / out_scale)
    values = BYTES - zero_point_of(source)
    positive = multiply_by_quantized_multiplier(values, *quantize_multiplier(float(scale / out_scale)))
    negative = multiply_by_quantized_multiplier(values, *quantize_multiplier(abs(slope))) * (-1 if slope < 0 else 1)
    _emit(operator, emitter, np.where(values >= 0, positive, negative) + zero_point_of(output))


@lowering("ABS")
def absolute(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    values = np.abs(BYTES - zero_point_of(source))
    if scale_of(source, operator) != scale_of(output, operator):
        real = float(scale_of(source, operator) / scale_of(output, operator))
        values = multiply_by_quantized_multiplier(values, *quantize_multiplier(real))
    _emit(operator, emitter, values + zero_point_of(output))


@lowering("RSQRT")
def rsqrt(operator: Operator, emitter: Emitter) -> None:
    source, output = _tensors(operator)
    root = np.float32(np.sqrt(scale_of(source, operator)) * scale_of(output, operator))
    multiplier, shift = quantize_multiplier(1.0 / float(root))
    values = []
    for value in BYTES - zero_point_of(source):
        if value <= 0:  # TFLite-Micro gives the largest value for 0, and refuses to run on what is below
            values.append(127)
            continue
        inverse, inverse_shift = inverse_square_root(int(value))
        inverse_bits = multiply_by_quantized_multiplier(np.array(1), inverse, inverse_shift + 20)
        values.append(
            int(multiply_by_quantized_multiplier(inverse_bits, multiplier, shift - 20)) + zero_point_of(output)
        )
    _emit(operator, emitter, np.array(values))


@lowering("HARD_SWISH")
def hard_swish(operator: Operator, emitter: Emitter) -> None:
    """reference_ops::HardSwish: 16-bit fixed point, x * (clip(x, -3, 3) + 3) / 6."""
    source, output = _tensors(operator)
    fine_scale = np.float32(np.float32(1.0 / 128.0) * scale_of(source, operator))
    multiplier, exponent = _int16_multiplier(float(fine_scale / scale_of(output, operator)))
    if exponent > 0:
        raise UnsupportedOperator(f"{operator.place}: the scale of the output is below 1/128 of the input's")
    relu_multiplier, relu_exponent = _int16_multiplier(float(fine_scale / np.float32(3.0 / 32768.0)))
    fine = (BYTES - zero_point_of(source)) * 128
    preshift = _high_multiply_int16(fine, multiplier)
    gate = _shift_left_int16(fine, relu_exponent - 1) if relu_exponent > 0 else fine
    gate = _high_multiply_int16(gate, relu_multiplier)
    if relu_exponent > 0:
        gate = _shift_left_int16(gate, 1)
    elif relu_exponent < 0:
        gate = rounding_divide_by_power(gate, -relu_exponent)
    gate = (gate + (1 << 15)) >> 1
    product = gate * preshift
    truncated = np.where(product >= 0, product >> 15, -(-product >> 15))
    _emit(operator, emitter, rounding_divide_by_power(truncated, -exponent) + zero_point_of(output))


def _int16_multiplier(real: float) -> tuple[int, int]:
    """`DownScaleInt32ToInt16Multiplier` of a quantised multiplier, and its exponent."""
    multiplier, exponent = quantize_multiplier(real)
    return (32767 if multiplier >= (1 << 31) - 1 - (1 << 15) else (multiplier + (1 << 15)) >> 16), exponent


def _high_multiply_int16(values: np.ndarray, multiplier: int) -> np.ndarray:
    """gemmlowp's `SaturatingRoundingDoublingHighMul` of int16; the multiplier is never -32768."""
    product = values * multiplier
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.where(nudged >= 0, nudged >> 15, -(-nudged >> 15))


def _shift_left_int16(values: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(values << bits, -32768, 32767)


@lowering("QUANTIZE")
def quantize(operator: Operator, emitter: Emitter) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    if source is None:
        raise UnsupportedOperator(f"{operator.place}: it has no input")
    real = float(scale_of(source, operator)) / float(scale_of(output, operator))
    multiplier, shift = quantize_multiplier(real)
    zero, out_zero = zero_point_of(source), zero_point_of(output)
    if source.dtype == output.dtype == "int8":
        if (multiplier, shift) == (1 << 30, 1) and zero == out_zero:
            emitter.alias(output, source)
            return
        _emit(operator, emitter, multiply_by_quantized_multiplier(BYTES - zero, multiplier, shift) + out_zero)
        return
    if (source.dtype, output.dtype) not in (
        ("int8", "int16"), ("int8", "int32"), ("int16", "int8"), ("int16", "int16"), ("int16", "int32"),
        ("int32", "int8"), ("int32", "int16"),
    ):  # fmt: skip
        raise UnsupportedOperator(f"{operator.place}: from {source.dtype} to {output.dtype} is not supported")
    emitter.kernel("quantize")
    emitter.call(
        f"quantize_{source.dtype}_{output.dtype}({emitter.ref(source)}, {emitter.ref(output)}, {output.size}, "
        f"{zero}, {out_zero}, {multiplier}, {shift});"
    )


def _fixed_output(operator: Operator, output: Tensor, scale: float, zero_point: int) -> None:
    if float(scale_of(output, operator)) != scale or zero_point_of(output) != zero_point:
        raise UnsupportedOperator(f"{operator.place}: the output must have scale {scale} and zero point {zero_point}")


def _tensors(operator: Operator) -> tuple[Tensor, Tensor]:
    source, output = operator.inputs[0], operator.outputs[0]
    if source is None or {source.dtype, output.dtype} != {"int8"}:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    return source, output
