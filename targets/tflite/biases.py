"""Room for biases in an int8 `.tflite` file.

A bias is stored in steps of input scale times weight scale. A channel whose weights are nearly zero, as pretrained
networks have them, gets so small a weight scale that its bias passes int32: the quantizer clips it, and the channel
then gives another constant than it should, or overflows.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from targets.tflite.flatbuffer import pack, unpack
from targets.tflite.schema import Operator, read_model

LARGEST_BIAS = 1 << 30  # the other half of int32's range is for the products


def with_room_for_biases(raw: bytes, float_raw: bytes) -> bytes:
    """The int8 file `raw` with every bias within int32: where one is beyond, the channel's weights get a larger scale.

    Rounding these weights anew moves the channel by at most 255 / 2^31 of its bias per weight. Everything else stays,
    as do channels whose weights or bias another layer has as well.
    """
    biases = {operator.outputs[0].name: _bias(operator) for operator in read_model(float_raw).operators}
    operators = read_model(raw).operators
    readers = Counter(tensor.index for operator in operators for tensor in operator.inputs if tensor is not None)
    content: Any = None
    for operator in operators:
        bias, value = _bias(operator), biases.get(operator.outputs[0].name)
        source, weights = (*operator.inputs, None, None)[:2]
        if bias is None or value is None or source is None or weights is None:
            continue
        if weights.dtype != "int8" or weights.data is None or not bias.scale.size == weights.scale.size == value.size:
            continue
        if readers[weights.index] > 1 or readers[bias.index] > 1:  # another layer's scales are made for these
            continue
        steps = np.abs(value.data.ravel() / bias.scale.astype(np.float64))
        wider = np.maximum(1.0, steps / LARGEST_BIAS)
        if (wider == 1).all():
            continue
        content = unpack(raw) if content is None else content
        shape = [1] * weights.data.ndim
        shape[weights.axis] = -1
        _replace(content, weights.index, np.rint(weights.data / wider.reshape(shape)).astype(np.int8), wider)
        _replace(content, bias.index, np.rint(value.data.ravel() / (bias.scale * wider)).astype(np.int32), wider)
    return raw if content is None else pack(content)


def _bias(operator: Operator) -> Any:
    """The constant bias of a layer, or None."""
    bias = operator.inputs[2] if len(operator.inputs) > 2 else None
    return bias if bias is not None and bias.is_constant else None


def _replace(content: Any, index: int, values: np.ndarray, wider: np.ndarray) -> None:
    """Give tensor `index` other values, and scales that are `wider` times as large."""
    tensor = content.subgraphs[0].tensors[index]
    tensor.quantization.scale = (np.asarray(tensor.quantization.scale, np.float64) * wider).astype(np.float32)
    buffer = type(content.buffers[tensor.buffer])()  # its own: tensors of equal content may share one
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    content.buffers.append(buffer)
    tensor.buffer = len(content.buffers) - 1
