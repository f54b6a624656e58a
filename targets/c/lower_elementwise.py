"""Two tensors into one, element by element, with broadcasting: ADD, SUB, MUL, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from targets.c.broadcast import broadcast_loops, nest, offset
from targets.c.fixed_point import activation_range, quantize_multiplier, scale_of, zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor

HALF = (1 << 30, 0)  # 1/2 as a multiplier and a shift
MAX_SHIFT = 29  # what is shifted is below 2^29: more bits give zero, too


@lowering("ADD")
def add(operator: Operator, emitter: Emitter) -> None:
    a, b, output = _tensors(operator)
    scales = [float(scale_of(tensor, operator)) for tensor in (a, b, output)]
    twice = 2 * max(scales[:2])
    _add(operator, emitter, scales[0] / twice, scales[1] / twice, twice / ((1 << 20) * scales[2]), 1)


@lowering("SUB")
def sub(operator: Operator, emitter: Emitter) -> None:
    # TFLite-Micro computes these in float32 for SUB, and in double for ADD.
    a, b, output = (scale_of(tensor, operator) for tensor in _tensors(operator))
    twice = np.float32(2) * max(a, b)
    scale = np.float32(twice / np.float32(np.float32(1 << 20) * output))
    _add(operator, emitter, float(a / twice), float(b / twice), float(scale), -1)


def _add(operator: Operator, emitter: Emitter, a_real: float, b_real: float, real: float, sign: int) -> None:
    """a + sign * b. The operand with the larger scale, whose multiplier is 1/2, is the kernel's first."""
    a, b, output = _tensors(operator)
    operands = [(a, quantize_multiplier(a_real), 1), (b, quantize_multiplier(b_real), sign)]
    if operands[0][1] != HALF:
        operands.reverse()
    (exact, _, exact_sign), (other, (other_multiplier, other_shift), other_sign) = operands
    multiplier, shift = quantize_multiplier(real)
    if shift > -1 and multiplier:
        raise UnsupportedOperator(f"{operator.place}: the scale of the output is below 2^-19 of the inputs'")
    bits = 21
    if (other_multiplier, other_shift) == HALF:  # the same, in the kernel's form
        bits, other_shift = 22, -1
    low, high = activation_range(output, operator.options.get("fusedActivationFunction", 0), operator)
    values = {
        "exact_factor": exact_sign << 19, "exact_offset": -zero_point_of(exact) * (exact_sign << 19),
        "other_factor": 1 << bits, "other_offset": -zero_point_of(other) << bits,
        "other_multiplier": other_multiplier, "other_sign": other_sign, "other_shift": _right(other_shift),
        "multiplier": multiplier, "shift": _right(shift), "zero_point": zero_point_of(output), "low": low,
        "high": high,
    }  # fmt: skip
    _parameters(emitter, "addition", values)
    _rows(operator, emitter, "add_int8", exact, other, "&parameters")


def _right(shift: int) -> int:
    return min(-shift, MAX_SHIFT) if shift else MAX_SHIFT  # 0 goes with the multiplier 0


@lowering("MUL")
def mul(operator: Operator, emitter: Emitter) -> None:
    a, b, output = (float(scale_of(tensor, operator)) for tensor in _tensors(operator))
    real = a * b / output
    fast = -MAX_SHIFT <= quantize_multiplier(real)[1] <= -1
    _elementwise(operator, emitter, "mul_int8" if fast else "mul_any_int8", None, None, real)


@lowering("SQUARED_DIFFERENCE")
def squared_difference(operator: Operator, emitter: Emitter) -> None:
    a, b, output = (float(scale_of(tensor, operator)) for tensor in _tensors(operator))
    twice = 2.0 * max(a, b)
    # the divisor is a float32 in TFLite-Micro
    divisor = float(np.float32(1 << 14) * np.float32(output))
    _elementwise(operator, emitter, "squared_difference_int8", a / twice, b / twice, twice * twice / divisor)


@lowering("MAXIMUM", "MINIMUM")
def maximum_minimum(operator: Operator, emitter: Emitter) -> None:
    a, b, output = _tensors(operator)
    for tensor in (a, b):
        if scale_of(tensor, operator) != scale_of(output, operator) or zero_point_of(tensor) != zero_point_of(output):
            raise UnsupportedOperator(f"{operator.place}: input {tensor.name} is quantised otherwise than the output")
    emitter.kernel("maximum_minimum")
    _rows(operator, emitter, "maximum_minimum_int8", a, b, "1" if operator.kind == "MAXIMUM" else "-1")


def _elementwise(
    operator: Operator, emitter: Emitter, kernel: str, a_real: float | None, b_real: float | None, real: float
) -> None:
    """Call an arithmetic kernel. `a_real`, `b_real` multiply the operands; None where the kernel takes none."""
    a, b, output = _tensors(operator)
    low, high = activation_range(output, operator.options.get("fusedActivationFunction", 0), operator)
    (a_multiplier, a_shift), (b_multiplier, b_shift) = (quantize_multiplier(real or 0.0) for real in (a_real, b_real))
    multiplier, shift = quantize_multiplier(real)
    values = {
        "a_zero_point": zero_point_of(a), "b_zero_point": zero_point_of(b), "zero_point": zero_point_of(output),
        "a_multiplier": a_multiplier, "b_multiplier": b_multiplier, "multiplier": multiplier,
        "a_shift": a_shift, "b_shift": b_shift, "shift": shift, "low": low, "high": high,
    }  # fmt: skip
    _parameters(emitter, "elementwise", values)
    _rows(operator, emitter, kernel, a, b, "&parameters")


def _parameters(emitter: Emitter, struct: str, values: Mapping[str, int]) -> None:
    emitter.kernel("elementwise")
    fields = ", ".join(f".{name} = {value}" for name, value in values.items())
    emitter.call(f"static const struct {struct} parameters = {{{fields}}};")


def _rows(operator: Operator, emitter: Emitter, kernel: str, a: Tensor, b: Tensor, *arguments: str) -> None:
    """Call the kernel once per row of the innermost axis that both inputs walk evenly."""
    output = operator.outputs[0]
    try:
        loops = broadcast_loops(output.shape, a.shape, b.shape)
    except ValueError as error:
        raise UnsupportedOperator(f"{operator.place}: {error}") from None
    for tensor in (a, b):
        if tensor.size == output.size:
            emitter.in_place(output, tensor)
    out_strides, a_strides, b_strides = loops.strides
    call = (
        f"{kernel}({emitter.ref(a)}{offset(a_strides[:-1])}, {a_strides[-1]}, "
        f"{emitter.ref(b)}{offset(b_strides[:-1])}, {b_strides[-1]}, "
        f"{emitter.ref(output)}{offset(out_strides[:-1])}, {', '.join([str(loops.sizes[-1]), *arguments])});"
    )
    emitter.call(nest(loops.sizes[:-1], call))


def _tensors(operator: Operator) -> tuple[Tensor, Tensor, Tensor]:
    a, b, output = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    if a is None or b is None or {a.dtype, b.dtype, output.dtype} != {"int8"}:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    return a, b, output
