"""Which layers of a graph int8 hurts: ranked by what each does alone, and the smallest set that must stay float.

One float32 ONNX file gets, in front of every layer that would be quantised, a fake quantisation of its inputs behind a
switch. A run with one switch on tells what that layer costs; runs with all switches on but those of the worst layers
tell how many must stay float. This is a simulation (per-channel symmetric weights, min-max activations, no rounding of
sums): the compiled file is measured all the same, the simulation only says where to look.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.parity import compare
from targets.qdq import prepare
from targets.quantize import WEIGHTED, calibration_of, chunks
from targets.target import GraphSource

RANGE_ROWS = 64  # of the calibration inputs, that ranges are taken from
ROWS = 16  # of the golden inputs, that errors are measured on; fewer where a network is slow
MARGIN_DB = 1.5  # what the simulation must have in reserve, since kernels also round sums
CLEAN_DB = 200.0  # the signal to noise of outputs that are equal


@dataclass(frozen=True)
class Sensitivity:
    """Layers are named by the tensors that they give.

    alone_db: layer -> signal to noise of the outputs if it alone is quantised, worst first. all_db: if all are.
    excluded: the worst layers that must stay float for the limit, empty if none must, None if no number of them
    suffices. excluded_db: the simulated result of that.
    """

    alone_db: Mapping[str, float]
    all_db: float
    excluded: tuple[str, ...] | None
    excluded_db: float | None
    seconds: float


def find_sensitive(
    source: GraphSource,
    folder: Path,
    limit_db: float,
    *,
    operators: Sequence[str] = WEIGHTED,
    symmetric: bool = False,
    timeout_s: float = 120.0,
) -> Sensitivity:
    """Rank the layers of a graph, and find how many of the worst must stay float for `limit_db`.

    Args:
        folder: an existing directory for intermediate files. operators: names of those that would be quantised.
        symmetric: activations have no zero point. timeout_s: layers not looked at by then come last.
    Raises RequestError if the graph has no calibration inputs.
    """
    start = time.monotonic()
    onnx = require("onnx", "onnx")
    model = onnx.load(prepare(source.onnx, folder))
    ranges = _ranges(model, source, operators)
    names = _insert_switches(model, ranges, operators, symmetric)
    session = _open(model)
    inputs = source.golden or calibration_of(source)
    outputs = [spec.name for spec in source.graph.outputs]

    def run(on: set[str], rows: int) -> dict[str, np.ndarray]:
        feeds = next(chunks(source.graph, inputs, limit=rows, step=rows))
        flags = {f"{name}/on": np.array(name in on) for name in names}
        return dict(zip(outputs, session.run(outputs, {**feeds, **flags}), strict=True))

    before = time.monotonic()
    run(set(names), 1)
    row_s = time.monotonic() - before
    rows = int(np.clip(timeout_s / 2 / (row_s * max(len(names), 1)), 1, ROWS))
    reference = run(set(), rows)

    def signal_db(on: set[str]) -> float:
        found = compare(reference, run(on, rows)).sqnr_db
        return CLEAN_DB if found is None else found

    all_db = signal_db(set(names))
    alone: dict[str, float] = {}
    for name in names:
        if time.monotonic() - start > timeout_s:
            break
        alone[name] = signal_db({name})
    # those that there was no time for follow from the input on: errors that come early are carried furthest
    worst = [*sorted(alone, key=lambda name: alone[name]), *(name for name in names if name not in alone)]
    count, reached = smallest(len(worst), lambda k: signal_db(set(names) - set(worst[:k])), limit_db, all_db)
    return Sensitivity(
        {name: alone.get(name, CLEAN_DB) for name in worst},
        all_db,
        None if count is None else tuple(worst[:count]),
        reached,
        time.monotonic() - start,
    )


def search(bundle: str, graph: str, limit_db: float, **settings: Any) -> dict[str, Any]:
    """`find_sensitive` on a graph of a bundle; runs in the sandbox. Gives the Sensitivity as JSON."""
    from targets.bundle import Bundle

    with tempfile.TemporaryDirectory() as folder:
        return asdict(find_sensitive(Bundle.open(bundle).source(graph), Path(folder), limit_db, **settings))


def smallest(most: int, measure: Any, limit: float, at_zero: float) -> tuple[int | None, float | None]:
    """The smallest k with measure(k) >= limit, by doubling and then bisection, and what it measures; None if there is
    none. measure need not grow with every step; the k that is given does pass."""
    if at_zero >= limit:
        return 0, at_zero
    low, high, reached = 0, 1, None
    while True:
        high = min(high, most)
        value = measure(high)
        if value >= limit:
            reached = value
            break
        if high == most:
            return None, None
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        value = measure(middle)
        if value >= limit:
            high, reached = middle, value
        else:
            low = middle
    return high, reached


def _inputs(node: Any, constants: Container[str], operators: Sequence[str]) -> list[int]:
    """Which inputs of a node would be quantised: both of a product with weights, every computed one of arithmetic."""
    if node.op_type not in operators:
        return []
    if node.op_type in WEIGHTED:
        return [0, 1] if any(name in constants for name in node.input[:2]) else []
    return [i for i, name in enumerate(node.input) if name and name not in constants]


def _ranges(model: Any, source: GraphSource, operators: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value, over the calibration inputs, of every computed input of a layer."""
    onnx = require("onnx", "onnx")
    constants = {tensor.name for tensor in model.graph.initializer}
    wanted = dict.fromkeys(
        node.input[i]
        for node in model.graph.node
        for i in _inputs(node, constants, operators)
        if node.input[i] not in constants
    )
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    given = {value.name for value in model.graph.input}
    there = {value.name for value in model.graph.output}
    for name in wanted:
        if name not in given | there:
            exposed.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = _open(exposed)
    inner = [name for name in wanted if name not in given]
    found: dict[str, tuple[float, float]] = {}
    for feeds in chunks(source.graph, calibration_of(source), limit=RANGE_ROWS):
        values: dict[str, np.ndarray] = {name: feeds[name] for name in wanted if name in given}
        if inner:
            values.update(zip(inner, session.run(inner, feeds), strict=True))
        for name, value in values.items():
            if value.dtype == np.float32:
                low, high = found.get(name, (0.0, 0.0))
                found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found


def _insert_switches(
    model: Any, ranges: Mapping[str, tuple[float, float]], operators: Sequence[str], symmetric: bool
) -> list[str]:
    """Put a switched fake quantisation in front of the layers; gives their names. `NAME/on` is a new boolean input."""
    onnx = require("onnx", "onnx")
    graph = model.graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, names = [], []
    for node in graph.node:
        places = [i for i in _inputs(node, tensors, operators) if node.input[i] in ranges or node.input[i] in tensors]
        if places:
            names.append(node.output[0])
            for i in places:
                nodes += _switch(graph, node, i, tensors, ranges, symmetric)
            graph.input.append(onnx.helper.make_tensor_value_info(f"{node.output[0]}/on", onnx.TensorProto.BOOL, []))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return names


def _switch(
    graph: Any,
    node: Any,
    i: int,
    tensors: Mapping[str, np.ndarray],
    ranges: Mapping[str, tuple[float, float]],
    symmetric: bool,
) -> list[Any]:
    """The nodes that give input i of a layer quantised where its switch is on."""
    onnx = require("onnx", "onnx")
    name, layer = node.input[i], node.output[0]
    stem, made = f"{layer}/{i}", []
    if name in tensors:
        quantised = fake_quantise_weights(tensors[name], node.op_type, i)
        graph.initializer.append(onnx.numpy_helper.from_array(quantised, f"{stem}/quantised"))
    else:
        scale, zero = _activation_scale(*ranges[name], symmetric)
        graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{stem}/scale"))
        graph.initializer.append(onnx.numpy_helper.from_array(zero, f"{stem}/zero"))
        step = [f"{stem}/scale", f"{stem}/zero"]
        made = [
            onnx.helper.make_node("QuantizeLinear", [name, *step], [f"{stem}/integers"]),
            onnx.helper.make_node("DequantizeLinear", [f"{stem}/integers", *step], [f"{stem}/quantised"]),
        ]
    node.input[i] = f"{stem}/chosen"
    return [*made, onnx.helper.make_node("Where", [f"{layer}/on", f"{stem}/quantised", name], [f"{stem}/chosen"])]


def _activation_scale(low: float, high: float, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point for a range that has 0 in it."""
    tiny = float(np.finfo(np.float32).tiny)
    if symmetric:
        return np.array(max(-low, high, tiny) / 127.0, np.float32), np.array(0, np.int8)
    scale = max((high - low) / 255.0, tiny)
    return np.array(scale, np.float32), np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8)


def fake_quantise_weights(weights: np.ndarray, operator: str, position: int) -> np.ndarray:
    """Weights rounded to 255 symmetric steps, per output channel where the operator has one."""
    axis = {"Conv": 0, "ConvTranspose": 1}.get(operator, weights.ndim - 1 if position == 1 else 0)
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.maximum(np.abs(weights).max(axis=others, keepdims=True) / 127.0, np.finfo(np.float32).tiny)
    return (np.rint(weights / scale) * scale).astype(weights.dtype)


def _open(model: Any) -> Any:
    ort = require("onnxruntime", "onnx")
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), sess_options=settings, providers=["CPUExecutionProvider"])
