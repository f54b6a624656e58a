"""AVERAGE_POOL_2D and MAX_POOL_2D."""

from __future__ import annotations

from targets.c.fixed_point import activation_range, scale_of, zero_point_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator

SAME = 0  # schema's Padding


@lowering("AVERAGE_POOL_2D", "MAX_POOL_2D")
def pool_2d(operator: Operator, emitter: Emitter) -> None:
    source, output, options = operator.inputs[0], operator.outputs[0], operator.options
    if source is None or {source.dtype, output.dtype} != {"int8"} or len(source.shape) != 4:
        raise UnsupportedOperator(f"{operator.place}: only int8 tensors of four axes are supported")
    if (
        abs(scale_of(source, operator) - scale_of(output, operator)) > 1e-6
        or zero_point_of(source) != zero_point_of(output)
    ):  # fmt: skip
        raise UnsupportedOperator(f"{operator.place}: the input is quantised otherwise than the output")
    batches, height, width, channels = source.shape
    low, high = activation_range(output, options.get("fusedActivationFunction", 0), operator)
    filters, strides = (options["filterHeight"], options["filterWidth"]), (options["strideH"], options["strideW"])
    top, left = (
        max((out - 1) * stride + size - have, 0) // 2 if options["padding"] == SAME else 0
        for out, stride, size, have in zip(output.shape[1:3], strides, filters, (height, width), strict=True)
    )
    values = {
        "height": height, "width": width, "channels": channels, "out_height": output.shape[1],
        "out_width": output.shape[2], "filter_height": filters[0], "filter_width": filters[1],
        "stride_height": strides[0], "stride_width": strides[1], "pad_top": top, "pad_left": left, "low": low,
        "high": high,
    }  # fmt: skip
    emitter.kernel("pool_2d")
    fields = ", ".join(f".{name} = {value}" for name, value in values.items())
    emitter.call(f"static const struct pool_2d parameters = {{{fields}}};")
    for batch in range(batches):
        into = f"{emitter.ref(output)} + {batch * output.size // batches}"
        out_of = f"{emitter.ref(source)} + {batch * source.size // batches}"
        emitter.call(f"{operator.kind.lower()}_int8({out_of}, {into}, &parameters);")
