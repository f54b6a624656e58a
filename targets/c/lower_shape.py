"""Operators that only say how the same bytes are to be seen: no code, the output is the input's memory."""

from __future__ import annotations

from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator


@lowering("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def reshape(operator: Operator, emitter: Emitter) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    if source is None or source.bytes != output.bytes:
        raise UnsupportedOperator(f"{operator.place}: the output has another size than the input")
    emitter.alias(output, source)
