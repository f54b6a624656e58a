"""Static quantisation of an ONNX file by QuantizeLinear and DequantizeLinear pairs (Q/DQ), with ONNX Runtime's tool."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Graph
from targets.quantize import calibration_of, chunks
from targets.quiet import quiet
from targets.target import GraphSource

EXTRA = "onnx"
MIN_OPSET = 13  # per-channel DequantizeLinear
PASSING = ("Clip", "Flatten", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def write_qdq(
    source: GraphSource,
    path: Path,
    operators: Sequence[str],
    activations: str,
    *,
    exclude: Sequence[str] = (),
    reduce_range: bool = False,
    extra_options: Mapping[str, Any] | None = None,
) -> int:
    """Write the int8 file of a graph: weights int8 per channel and symmetric, ranges the extremes of its calibration.

    Args:
        operators: names of the operators to quantise. activations: "uint8", or "int8" (symmetric).
        exclude: layers that stay float, by the names of the tensors that they give.
        reduce_range: weights of 7 bits. extra_options: more of ONNX Runtime's own.
    Returns the number of calibration samples. Raises RequestError if the graph has none.
    """
    require("onnxruntime", EXTRA)
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    feeds = calibration_of(source)
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = prepare(source.onnx, Path(folder))
        quantize_static(
            str(prepared),
            str(path),
            _Reader(source.graph, feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=_excluded(prepared, exclude),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type={"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}[activations],
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": activations == "int8",
                "WeightSymmetric": True,
                "MatMulConstBOnly": True,
                # else a Relu is dropped where the rounding behind it clips, and that rounding may be taken away below
                "QDQKeepRemovableActivations": bool(exclude),
                **(extra_options or {}),
            },
        )
    if exclude:
        _bypass_pairs(path, exclude)
    return len(next(iter(feeds.values())))


def _excluded(path: Path, layers: Sequence[str]) -> list[str]:
    """Names of nodes that stay float: `layers`, and for accuracy always sums with a constant (the inside of a layer
    normalisation or of a hard swish) and products of two computed matrices (attention)."""
    graph = require("onnx", EXTRA).load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return [
        node.name
        for node in graph.node
        if (node.op_type == "Add" and constants & set(node.input))
        or (node.op_type == "MatMul" and not constants & set(node.input))
        or set(layers) & set(node.output)
    ]


def _flatten_biases(graph: Any) -> None:
    """Gemm's bias (1, n) as (n,), which is the same: the quantiser takes one scale per row of it, and stumbles."""
    numpy_helper = require("onnx.numpy_helper", EXTRA)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        bias = tensors.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1:
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[0], bias.name))


def _bypass_pairs(path: Path, layers: Sequence[str]) -> None:
    """Take the Q/DQ pairs out of the way of layers that stay float: the quantiser also rounds what other layers hand to
    them, and that is what hurts. Where only a moving operator stands between, the pair before it goes as well."""
    onnx = require("onnx", EXTRA)
    model = onnx.load(path)
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    floating = [node for node in graph.node if set(layers) & set(node.output)]
    while floating:
        node = floating.pop()
        for i, name in enumerate(node.input):
            dequantize = made_by.get(name)
            if dequantize is not None and dequantize.op_type == "DequantizeLinear":
                quantize = made_by.get(dequantize.input[0])
                if quantize is None:  # weights
                    continue
                name = node.input[i] = quantize.input[0]
            before = made_by.get(name)
            if before is not None and before.op_type in PASSING and len(readers[name]) == 1:
                floating.append(before)
    _remove_unread(graph)
    onnx.save(model, path)


def _remove_unread(graph: Any) -> None:
    """Remove nodes and constants that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        dead = [node for node in graph.node if not read & set(node.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


class _Reader:
    """onnxruntime's CalibrationDataReader over arrays."""

    def __init__(self, graph: Graph, feeds: Mapping[str, np.ndarray]) -> None:
        self._chunks = chunks(graph, feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._chunks, None)


def prepare(path: Path, folder: Path) -> Path:
    """What quantisation expects, written to `folder`: an opset that has it, shapes, constants and batch norms folded,
    and a name for every node."""
    onnx = require("onnx", EXTRA)
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        model = require("onnx.version_converter", EXTRA).convert_version(model, MIN_OPSET)
        path = folder / "raised.onnx"
        onnx.save(model, path)
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    _flatten_biases(model.graph)
    onnx.save(model, prepared)
    return prepared
