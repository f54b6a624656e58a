"""BATCH_MATMUL: products of two computed matrices, with broadcasting over the axes before the last two."""

from __future__ import annotations

from targets.c.broadcast import broadcast_loops, nest, offset
from targets.c.fixed_point import quantize_multiplier, scale_of, zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator


@lowering("BATCH_MATMUL")
def batch_matmul(operator: Operator, emitter: Emitter) -> None:
    a, b, output = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    if a is None or b is None or {a.dtype, b.dtype, output.dtype} != {"int8"}:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors are supported")
    adjoint_a, adjoint_b = operator.options.get("adjX", False), operator.options.get("adjY", False)
    rows, columns = output.shape[-2:]
    depth = a.shape[-2] if adjoint_a else a.shape[-1]
    a_scale, b_scale, scale = (float(scale_of(tensor, operator)) for tensor in (a, b, output))
    multiplier, shift = quantize_multiplier(a_scale * b_scale / scale)
    values = {
        "rows": rows, "columns": columns, "depth": depth,
        "a_row": 1 if adjoint_a else depth, "a_step": rows if adjoint_a else 1,
        "b_column": depth if adjoint_b else 1, "b_step": 1 if adjoint_b else columns,
        "a_zero_point": zero_point_of(a), "b_zero_point": zero_point_of(b), "multiplier": multiplier, "shift": shift,
        "zero_point": zero_point_of(output),
    }  # fmt: skip
    emitter.kernel("batch_matmul")
    fields = ", ".join(f".{name} = {value}" for name, value in values.items())
    emitter.call(f"static const struct batch_matmul parameters = {{{fields}}};")
    try:
        loops = broadcast_loops(output.shape[:-2], a.shape[:-2], b.shape[:-2])
    except ValueError as error:
        raise UnsupportedOperator(f"{operator.place}: {error}") from None
    matrices = (rows * columns, rows * depth, depth * columns)
    places = [
        f"{emitter.ref(tensor)}{offset([stride * size for stride in walk])}"
        for tensor, walk, size in zip((output, a, b), loops.strides, matrices, strict=True)
    ]
    emitter.call(nest(loops.sizes, f"batch_matmul_int8({places[1]}, {places[2]}, {places[0]}, &parameters);"))
