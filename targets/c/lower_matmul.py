"""Products of two computed matrices: BATCH_MATMUL, with broadcasting over the axes before the last two, and
FULLY_CONNECTED without constant weights."""

from __future__ import annotations

from dataclasses import replace

from targets.c.broadcast import broadcast_loops, nest, offset
from targets.c.fixed_point import activation_range, quantize_multiplier, scale_of, zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor


@lowering("BATCH_MATMUL")
def batch_matmul(operator: Operator, emitter: Emitter) -> None:
    _, a, b = _tensors(operator)
    _product(operator, emitter, operator.options.get("adjX", False), operator.options.get("adjY", False), a, b)


def computed_fully_connected(operator: Operator, emitter: Emitter) -> None:
    """FULLY_CONNECTED whose weights (outputs, inputs) are computed; the rows of the input are its last axis."""
    _, a, b = _tensors(operator)
    if len(operator.inputs) > 2 and operator.inputs[2] is not None:
        raise UnsupportedOperator(f"{operator.place}: a bias to computed weights is not supported")
    depth = b.shape[-1]
    if len(b.shape) != 2 or a.size % depth:
        raise UnsupportedOperator(f"{operator.place}: weights {b.shape} do not fit {a.shape}")
    rows = a.size // depth
    _product(operator, emitter, False, True, replace(a, shape=(rows, depth)), b, (rows, b.shape[0]))


def _product(
    operator: Operator,
    emitter: Emitter,
    adjoint_a: bool,
    adjoint_b: bool,
    a: Tensor,
    b: Tensor,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Call the kernel for every pair of matrices. `shape`: of the output, where it is seen otherwise."""
    output = operator.outputs[0]
    shape = output.shape if shape is None else shape
    rows, columns = shape[-2:]
    depth = a.shape[-2] if adjoint_a else a.shape[-1]
    a_scale, b_scale, scale = (float(scale_of(tensor, operator)) for tensor in (a, b, output))
    multiplier, shift = quantize_multiplier(a_scale * b_scale / scale)
    low, high = activation_range(output, operator.options.get("fusedActivationFunction", 0), operator)
    values = {
        "rows": rows, "columns": columns, "depth": depth,
        "a_row": 1 if adjoint_a else depth, "a_step": rows if adjoint_a else 1,
        "b_column": depth if adjoint_b else 1, "b_step": 1 if adjoint_b else columns,
        "a_zero_point": zero_point_of(a), "b_zero_point": zero_point_of(b), "multiplier": multiplier, "shift": shift,
        "zero_point": zero_point_of(output), "low": low, "high": high,
    }  # fmt: skip
    emitter.kernel("batch_matmul")
    fields = ", ".join(f".{name} = {value}" for name, value in values.items())
    emitter.call(f"static const struct batch_matmul parameters = {{{fields}}};")
    try:
        loops = broadcast_loops(shape[:-2], a.shape[:-2], b.shape[:-2])
    except ValueError as error:
        raise UnsupportedOperator(f"{operator.place}: {error}") from None
    matrices = (rows * columns, rows * depth, depth * columns)
    places = [
        f"{emitter.ref(tensor)}{offset([stride * size for stride in walk])}"
        for tensor, walk, size in zip((output, a, b), loops.strides, matrices, strict=True)
    ]
    emitter.call(nest(loops.sizes, f"batch_matmul_int8({places[1]}, {places[2]}, {places[0]}, &parameters);"))


def _tensors(operator: Operator) -> tuple[Tensor, Tensor, Tensor]:
    """(output, first, second) factor, int8."""
    a, b, output = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    if a is None or b is None or {a.dtype, b.dtype, output.dtype} != {"int8"}:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    return output, a, b
