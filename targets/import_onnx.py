"""A user's ONNX file as a bundle: its inputs get one batch as their first axis, everything else a size or a value."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from targets import sandbox
from targets.bundle import Bundle
from targets.graph import Arrays, Graph, TensorSpec
from targets.import_bundle import GRAPH, fill, open_writer
from targets.import_data import Data, matched, synthetic_inputs
from targets.onnx_branches import without_constant_ifs
from targets.onnx_files import fix_axes, read_graph, rewrite_inputs
from targets.target import Session, get_target


@dataclass
class _Adapted:
    """A file whose graph fits a bundle, its data, and in words what had to be changed."""

    path: Path
    graph: Graph
    data: Data | None
    remarks: list[str] = field(default_factory=list)


def import_onnx(model: str, out: Path, data: Data | None, metric: str | None, name: str) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        adapted = _adapt(model, data, Path(folder))
        graph, data = adapted.graph, adapted.data
        lineage = {"model": Path(model).name, "remarks": adapted.remarks}
        with open_writer(out, name, data, metric, lineage) as writer:
            first = data.inputs if data is not None else synthetic_inputs(graph, 1)
            first = {key: value[:1] for key, value in first.items()}
            reference = _onnx_reference(adapted.path, graph, first, Path(model).name)
            writer.add_onnx(graph, adapted.path, reference)
            fill(writer, graph, data, metric, learned=True)
    return Bundle.open(out)


def _adapt(model: str, data: Data | None, folder: Path) -> _Adapted:
    """Fold inputs that are single numbers, move the batch to the front, fix other axes, fold Ifs that ask for none of
    the data; files are made in `folder`."""
    path, remarks = Path(model), []
    raw = read_graph(path, GRAPH)
    numbers, data = _single_numbers(raw, data, model)
    late = _late_batches(raw)
    if numbers or late:
        path = rewrite_inputs(path, folder / "moved", numbers, late)
        raw = read_graph(path, GRAPH)
        remarks += [
            f"input {key} is {value} in every item: a constant of the model now" for key, value in numbers.items()
        ]
        shapes = {spec.name: ", ".join(map(str, spec.shape[1:])) for spec in (*raw.inputs, *raw.outputs)}
        remarks += [
            f"{key} has its batch on axis {axis}: here it is (batch, {shapes[key]})" for key, axis in late.items()
        ]
    graph, sizes = _normalise(raw, data, model)
    remarks += sizes
    if graph.inputs != raw.inputs and (sizes or isinstance(graph.inputs[0].shape[0], int)):
        path = fix_axes(path, graph, folder / "fixed")
        graph = Graph(graph.name, graph.inputs, read_graph(path, GRAPH).outputs)
    path, branches = without_constant_ifs(path, folder / "branches")
    if branches:
        remarks.append(f"{branches} If always take one branch here: they are gone")
    if data is not None:
        data = matched(data, graph)
    return _Adapted(path, graph, data, remarks)


def _single_numbers(raw: Graph, data: Data | None, model: str) -> tuple[dict[str, np.ndarray], Data | None]:
    """Values of the inputs without an axis (a sampling rate), which the data has once per item, and the data without
    them. Raises RequestError if there is no value, or more than one."""
    names = [spec for spec in raw.inputs if not spec.shape]
    if not names:
        return {}, data
    if len(names) == len(raw.inputs):
        raise RequestError(f"{model}: {names[0].name} is a scalar, and there is no other input: none has a batch axis")
    found = {}
    for spec in names:
        ask = f"give --data with an array {spec.name}, the same value once per item: it becomes a constant"
        if data is None or spec.name not in data.inputs:
            raise RequestError(f"{model}: input {spec.name} is a scalar: {ask}")
        values = np.unique(data.inputs[spec.name])
        if data.inputs[spec.name].ndim != 1 or len(values) != 1:
            shown = ", ".join(map(str, values[:3])) + (", ..." if len(values) > 3 else "")
            raise RequestError(f"--data {data.path}: input {spec.name} is a scalar, but has the values {shown}: {ask}")
        if not np.can_cast(values.dtype, spec.dtype, "same_kind"):
            raise RequestError(f"--data {data.path}: input {spec.name} is {values.dtype}, the graph takes {spec.dtype}")
        found[spec.name] = values[0].astype(spec.dtype)
    assert data is not None  # else refused above
    inputs = {name: value for name, value in data.inputs.items() if name not in found}
    if not inputs:
        raise RequestError(f"--data {data.path}: has only {', '.join(found)}: give one array per input of the model")
    return found, Data(data.path, inputs, data.targets)


def _late_batches(raw: Graph) -> dict[str, int]:
    """Inputs and outputs whose batch is not their first axis (a recurrent state of (2, batch, 128)), and which it is:
    the axis that has the name of the others' first, or of an input the only one without a size."""
    symbols = [spec.shape[0] for spec in raw.inputs if spec.shape and isinstance(spec.shape[0], str)]
    if not symbols:
        return {}
    batch, late = symbols[0], {}
    for spec in (*raw.inputs, *raw.outputs):
        named = [axis for axis, size in enumerate(spec.shape) if size == batch]
        open_axes = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
        if spec in raw.inputs and not (spec.shape and isinstance(spec.shape[0], int)):
            continue
        where = named or (open_axes if spec in raw.inputs else [])
        if len(where) == 1 and where[0] > 0:
            late[spec.name] = where[0]
    return late


def _normalise(raw: Graph, data: Data | None, model: str) -> tuple[Graph, list[str]]:
    """The graph with its first axes as the batch and every other axis fixed, and in words which axes were fixed.

    Raises RequestError if an input has no batch axis, or a dynamic axis is left that no data says the size of.
    """
    scalar = [spec.name for spec in (*raw.inputs, *raw.outputs) if not spec.shape]
    if not raw.inputs or scalar:
        what = f"{scalar[0]} is a scalar" if scalar else "it has no inputs"
        raise RequestError(f"{model}: {what}; every input and output needs the batch as its first axis")
    batches = {spec.shape[0] for spec in raw.inputs if isinstance(spec.shape[0], int)}
    if len(batches) > 1:
        shown = ", ".join(f"{spec.name} {spec.shape[0]}" for spec in raw.inputs)
        raise RequestError(
            f"{model}: first axes of the inputs differ ({shown}); they must be one batch: export it with a batch axis"
            " of one name, which may be another axis than the first"
        )
    batch: int | str = batches.pop() if batches else "batch"
    inputs, sizes = [], []
    for spec in raw.inputs:
        shape: list[int | str] = [batch]
        for i, axis in enumerate(spec.shape[1:], start=1):
            if isinstance(axis, str):
                axis = _axis_from_data(spec, i, data, raw, model)
                sizes.append(f"axis {i} of input {spec.name} is dynamic: it is {axis} here, as in the data")
            shape.append(axis)
        inputs.append(TensorSpec(spec.name, spec.dtype, tuple(shape)))
    outputs = [TensorSpec(spec.name, spec.dtype, (batch, *spec.shape[1:])) for spec in raw.outputs]
    return Graph(raw.name, tuple(inputs), tuple(outputs)), sizes


def _axis_from_data(spec: TensorSpec, axis: int, data: Data | None, graph: Graph, model: str) -> int:
    if data is None:
        raise RequestError(
            f"{model}: axis {axis} of input {spec.name} is dynamic ({spec.shape[axis]}): give --data, to take it from"
        )
    only = len(graph.inputs) == 1 and len(data.inputs) == 1
    value = next(iter(data.inputs.values())) if only else data.inputs.get(spec.name)
    if value is None or value.ndim != len(spec.shape):
        found = "is missing" if value is None else f"has shape {value.shape}"
        raise RequestError(f"--data {data.path}: input {spec.name} {found}, but the graph takes {spec.shape}")
    return value.shape[axis]


def _onnx_reference(path: Path, graph: Graph, first: Arrays, shown: str) -> Session:
    """Float outputs of a user's file. It is tried in the sandbox first: it may crash whatever opens it."""
    arguments = {"path": str(path.resolve()), "graph": graph.to_json()}
    try:
        sandbox.call("targets.import_onnx:run_onnx", arguments, arrays=first, doing="running the model")
    except sandbox.SandboxError as error:
        raise RequestError(f"{shown}: ONNX Runtime cannot run it: {error.reason}") from None
    return get_target("onnx").open(graph, (path,), "fp32", {})


def run_onnx(path: str, graph: dict[str, Any], arrays: Arrays) -> None:
    """Open an ONNX file and run it once; runs in the sandbox."""
    get_target("onnx").open(Graph.from_json(graph), (Path(path),), "fp32", {})(arrays)
