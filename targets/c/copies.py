"""Moving elements: every operator that only puts elements elsewhere is a copy between two strided walks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from targets.c.broadcast import merged, nest, offset
from targets.c.lowering import Emitter
from targets.tflite.schema import Tensor


def strided_copy(
    emitter: Emitter,
    output: Tensor,
    source: Tensor,
    sizes: Sequence[int],
    *,
    output_strides: Sequence[int],
    source_strides: Sequence[int],
    output_base: int = 0,
    source_base: int = 0,
) -> None:
    """output[base + i . strides] = source[base + i . strides] for every index i below `sizes`; strides in elements.

    The fewest loops, with memcpy where the innermost elements are neighbours on both sides.
    """
    loops = merged(sizes, [output_strides, source_strides])
    into, out_of = loops.strides
    if into[-1] == out_of[-1] == 1:
        bytes_ = loops.sizes[-1] * np.dtype(output.dtype).itemsize
        to = emitter.ref(output) + offset(into[:-1], output_base)
        body = f"memcpy({to}, {emitter.ref(source)}{offset(out_of[:-1], source_base)}, {bytes_});"
        emitter.call(nest(loops.sizes[:-1], body))
    else:
        to = f"*({emitter.ref(output)}{offset(into, output_base)})"
        emitter.call(nest(loops.sizes, f"{to} = *({emitter.ref(source)}{offset(out_of, source_base)});"))
