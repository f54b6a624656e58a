"""Multiply-accumulates of a `.tflite`: layers with weights, and products of computed matrices."""

from __future__ import annotations

from targets.tflite.schema import Model, Operator


def macs(operator: Operator) -> int:
    """Of one operator; 0 for those that multiply no weights."""
    output = operator.outputs[0].size if operator.outputs else 0
    first, second = (*operator.inputs, None, None)[:2]
    if operator.kind == "CONV_2D" and second is not None:  # weights: (outputs, height, width, inputs)
        return output * second.size // second.shape[0]
    if operator.kind == "DEPTHWISE_CONV_2D" and second is not None:  # weights: (1, height, width, outputs)
        return output * second.shape[1] * second.shape[2]
    if operator.kind == "FULLY_CONNECTED" and second is not None:  # weights: (outputs, inputs)
        return output * second.shape[-1]
    if operator.kind == "BATCH_MATMUL" and first is not None:
        return output * first.shape[-2 if operator.options.get("adjX") else -1]
    return 0


def total_macs(model: Model) -> int:
    return sum(macs(operator) for operator in model.operators)
