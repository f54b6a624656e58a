"""Rows by index: GATHER, EMBEDDING_LOOKUP, and RESIZE_NEAREST_NEIGHBOR, whose indices are known beforehand."""

from __future__ import annotations

import numpy as np

from targets.c.broadcast import nest
from targets.c.fixed_point import round_away
from targets.c.lower_copies import constant_of
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor


@lowering("GATHER")
def gather(operator: Operator, emitter: Emitter) -> None:
    table, ids = operator.inputs[0], operator.inputs[1]
    if table is None or ids is None:
        raise UnsupportedOperator(f"{operator.place}: an input is missing")
    batch = operator.options.get("batchDims", 0) % (len(ids.shape) + 1)
    _gather(operator, emitter, table, ids, operator.options.get("axis", 0) % len(table.shape), batch)


@lowering("EMBEDDING_LOOKUP")
def embedding_lookup(operator: Operator, emitter: Emitter) -> None:
    ids, table = operator.inputs[0], operator.inputs[1]
    if table is None or ids is None:
        raise UnsupportedOperator(f"{operator.place}: an input is missing")
    _gather(operator, emitter, table, ids, 0, 0)


def _gather(operator: Operator, emitter: Emitter, table: Tensor, ids: Tensor, axis: int, batch: int) -> None:
    """Indices outside the table are taken to its nearest end: a wrong index must not read foreign memory."""
    output = operator.outputs[0]
    if ids.dtype != "int32" or table.dtype != output.dtype:
        raise UnsupportedOperator(f"{operator.place}: indices must be int32, and the output of the table's type")
    if table.scale.tolist() != output.scale.tolist() or table.zero_point.tolist() != output.zero_point.tolist():
        raise UnsupportedOperator(f"{operator.place}: the table is quantised otherwise than the output")
    shape = table.shape
    batches, outer, rows = (
        int(np.prod(part, dtype=int)) for part in (shape[:batch], shape[batch:axis], shape[axis : axis + 1])
    )
    inner = int(np.prod(shape[axis + 1 :], dtype=int))
    count = int(np.prod(ids.shape[batch:], dtype=int))
    emitter.kernel("requantize")
    body = "\n".join(
        [
            f"const int32_t row = clamp({emitter.ref(ids)}[i0 * {count} + i2], 0, {rows - 1});",
            f"memcpy({emitter.ref(output)} + ((i0 * {outer} + i1) * {count} + i2) * {inner}, "
            f"{emitter.ref(table)} + ((i0 * {outer} + i1) * {rows} + row) * {inner}, "
            f"{inner * np.dtype(table.dtype).itemsize});",
        ]
    )
    emitter.call(nest((batches, outer, count), body))


@lowering("RESIZE_NEAREST_NEIGHBOR")
def resize_nearest_neighbor(operator: Operator, emitter: Emitter) -> None:
    source, size, output = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    if source is None or size is None or len(source.shape) != 4 or source.dtype != output.dtype:
        raise UnsupportedOperator(f"{operator.place}: only tensors of four axes are supported")
    if source.scale.tolist() != output.scale.tolist() or source.zero_point.tolist() != output.zero_point.tolist():
        raise UnsupportedOperator(f"{operator.place}: the input is quantised otherwise than the output")
    batches, height, width, channels = source.shape
    out_height, out_width = (int(value) for value in constant_of(operator, size).ravel())
    rows, columns = (
        emitter.constant(name, _nearest(have, want, operator).astype(np.int32))
        for name, have, want in (("rows", height, out_height), ("columns", width, out_width))
    )
    body = (
        f"memcpy({emitter.ref(output)} + ((i0 * {out_height} + i1) * {out_width} + i2) * {channels}, "
        f"{emitter.ref(source)} + ((i0 * {height} + {rows}[i1]) * {width} + {columns}[i2]) * {channels}, "
        f"{channels * np.dtype(source.dtype).itemsize});"
    )
    emitter.call(nest((batches, out_height, out_width), body))


def _nearest(have: int, want: int, operator: Operator) -> np.ndarray:
    """`GetNearestNeighbor` of every output, in float32."""
    corners, centers = operator.options.get("alignCorners", False), operator.options.get("halfPixelCenters", False)
    pair = (have - 1, want - 1) if corners and want > 1 else (have, want)
    scale = np.float32(pair[0]) / np.float32(pair[1])
    places = (np.arange(want, dtype=np.float32) + np.float32(0.5 if centers else 0.0)) * scale
    return np.clip(round_away(places) if corners else np.floor(places), 0, have - 1)
