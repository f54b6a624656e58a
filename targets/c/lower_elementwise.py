"""Two tensors into one, element by element, with broadcasting: ADD, SUB, MUL, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from targets.c.broadcast import broadcast_loops, nest, offset
from targets.c.fixed_point import activation_range, quantize_multiplier, scale_of, zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor


@lowering("ADD")
def add(operator: Operator, emitter: Emitter) -> None:
    a, b, output = _tensors(operator)
    scales = [float(scale_of(tensor, operator)) for tensor in (a, b, output)]
    twice = 2 * max(scales[:2])
    _lower(operator, emitter, "add_int8", scales[0] / twice, scales[1] / twice, twice / ((1 << 20) * scales[2]), "1")


@lowering("SUB")
def sub(operator: Operator, emitter: Emitter) -> None:
    # TFLite-Micro computes these in float32 for SUB, and in double for ADD.
    a, b, output = (scale_of(tensor, operator) for tensor in _tensors(operator))
    twice = np.float32(2) * max(a, b)
    scale = np.float32(twice / np.float32(np.float32(1 << 20) * output))
    _lower(operator, emitter, "add_int8", float(a / twice), float(b / twice), float(scale), "-1")


@lowering("MUL")
def mul(operator: Operator, emitter: Emitter) -> None:
    a, b, output = (float(scale_of(tensor, operator)) for tensor in _tensors(operator))
    _lower(operator, emitter, "mul_int8", None, None, a * b / output)


@lowering("SQUARED_DIFFERENCE")
def squared_difference(operator: Operator, emitter: Emitter) -> None:
    a, b, output = (float(scale_of(tensor, operator)) for tensor in _tensors(operator))
    twice = 2.0 * max(a, b)
    # the divisor is a float32 in TFLite-Micro
    divisor = float(np.float32(1 << 14) * np.float32(output))
    _lower(operator, emitter, "squared_difference_int8", a / twice, b / twice, twice * twice / divisor)


@lowering("MAXIMUM", "MINIMUM")
def maximum_minimum(operator: Operator, emitter: Emitter) -> None:
    a, b, output = _tensors(operator)
    for tensor in (a, b):
        if scale_of(tensor, operator) != scale_of(output, operator) or zero_point_of(tensor) != zero_point_of(output):
            raise UnsupportedOperator(f"{operator.place}: input {tensor.name} is quantised otherwise than the output")
    emitter.kernel("maximum_minimum")
    _rows(operator, emitter, "maximum_minimum_int8", "1" if operator.kind == "MAXIMUM" else "-1")


def _lower(
    operator: Operator,
    emitter: Emitter,
    kernel: str,
    a_real: float | None,
    b_real: float | None,
    real: float,
    *arguments: str,
) -> None:
    """Call an arithmetic kernel. Multipliers of operands are below one, or None where it takes none."""
    a, b, output = _tensors(operator)
    low, high = activation_range(output, operator.options.get("fusedActivationFunction", 0), operator)
    if kernel == "add_int8" and real >= 1:
        raise UnsupportedOperator(f"{operator.place}: the scale of the output is less than 2^-19 of the inputs'")
    (a_multiplier, a_shift), (b_multiplier, b_shift) = (quantize_multiplier(real or 0.0) for real in (a_real, b_real))
    multiplier, shift = quantize_multiplier(real)
    values: Mapping[str, int] = {
        "a_zero_point": zero_point_of(a), "b_zero_point": zero_point_of(b), "zero_point": zero_point_of(output),
        "a_multiplier": a_multiplier, "b_multiplier": b_multiplier, "multiplier": multiplier,
        "a_shift": a_shift, "b_shift": b_shift, "shift": shift, "low": low, "high": high,
    }  # fmt: skip
    emitter.kernel("elementwise")
    fields = ", ".join(f".{name} = {value}" for name, value in values.items())
    emitter.call(f"static const struct elementwise parameters = {{{fields}}};")
    _rows(operator, emitter, kernel, *arguments, "&parameters")


def _rows(operator: Operator, emitter: Emitter, kernel: str, *arguments: str) -> None:
    """Call the kernel once per row of the innermost axis that both inputs walk evenly."""
    a, b, output = _tensors(operator)
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
