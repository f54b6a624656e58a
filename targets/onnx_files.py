"""ONNX files on disk: written from an exported program, checked, named, and simplified where that is safe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import RequestError, require
from targets.graph import Graph, TensorSpec
from targets.quiet import quiet

if TYPE_CHECKING:
    from torch.export import ExportedProgram

INLINE_LIMIT_BYTES = 1_800_000_000  # a protobuf file ends at 2 GiB; larger weights go into a file beside it


def export_onnx(program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Write a float32 ONNX file whose batch axis is named "batch", and check it (full, with shape inference)."""
    torch, onnx = require("torch", "train"), require("onnx", "onnx")
    require("onnxscript", "onnx")
    with quiet():
        model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    _name_values(model, inputs, outputs)
    _name_batch_axis(model)
    # the exporter keeps shapes that it knows from torch; one more inference checks them against the operators
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    save_onnx(model, path)


def save_onnx(model: Any, path: Path) -> None:
    """Write a model, with large weights in a `.data` file beside it, and check what was written."""
    onnx = require("onnx", "onnx")
    if model.ByteSize() > INLINE_LIMIT_BYTES:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=1024)
    else:
        onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def slim_onnx(path: Path, out: Path) -> str | None:
    """Write a simplified copy of the file at `path` to `out`; give the reason if that is not possible."""
    try:
        import onnxslim
    except ModuleNotFoundError:
        return "onnxslim is not installed"
    onnx = require("onnx", "onnx")
    before = onnx.load(path)
    if before.ByteSize() > INLINE_LIMIT_BYTES:
        return "the file is too large for onnxslim"
    try:
        with quiet():
            after = onnxslim.slim(onnx.load(path))
        save_onnx(after, out)
    except Exception as error:  # onnxslim raises whatever its passes raise
        return f"onnxslim failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if [graph_io(before.graph.input), graph_io(before.graph.output)] != [
        graph_io(after.graph.input),
        graph_io(after.graph.output),
    ]:
        return "onnxslim changed the inputs or outputs"
    return None


def graph_io(values: Any) -> list[tuple[str, str, tuple[int | str, ...]]]:
    """(name, numpy dtype, shape) of graph inputs or outputs; an axis without a name or size (or of
    size 0 or -1, as some exporters write it) is "?N"."""
    onnx = require("onnx", "onnx")
    found = []
    for value in values:
        if not value.type.HasField("tensor_type"):
            raise RequestError(f"{value.name!r} is a sequence, map or optional value; only tensors can be run")
        tensor = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or f"?{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
        found.append((value.name, dtype, shape))
    return found


def read_graph(path: Path, name: str) -> Graph:
    """The inputs and outputs of an ONNX file as a Graph. Initializers that are listed as inputs are left out.

    Raises RequestError if the file is missing, truncated, or lacks its external weights.
    """
    model = load_onnx(path, weights=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = graph_io(value for value in model.graph.input if value.name not in weights)
    return Graph(
        name,
        tuple(TensorSpec(*item) for item in inputs),
        tuple(TensorSpec(*item) for item in graph_io(model.graph.output)),
    )


def load_onnx(path: Path, weights: bool = True) -> Any:
    """Load and check a user's ONNX file. Raises RequestError in one line."""
    onnx = require("onnx", "onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except Exception as error:  # protobuf's decode errors have no common base that is public
        raise RequestError(f"{path}: not a readable ONNX file ({_line(error)}): it may be truncated") from None
    if not model.graph.node or not model.opset_import:
        raise RequestError(f"{path}: not a readable ONNX file (it has no graph): it may be truncated")
    missing = sorted({where for where in external_files(model) if not (path.parent / where).is_file()})
    if missing:
        raise RequestError(f"{path}: its weights are in {missing[0]}, which is not beside it: copy that file too")
    try:
        onnx.checker.check_model(str(path))
        return onnx.load(path) if weights else model
    except Exception as error:  # as above
        raise RequestError(f"{path}: not a valid ONNX file ({_line(error)})") from None


def fix_axes(path: Path, graph: Graph, folder: Path) -> Path:
    """A copy of an ONNX file in `folder` whose inputs have the graph's sizes; its other shapes are inferred anew."""
    onnx = require("onnx", "onnx")
    model = onnx.load(path)
    specs = {spec.name: spec for spec in graph.inputs}
    for value in model.graph.input:
        if value.name in specs:
            for dim, axis in zip(value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True):
                if isinstance(axis, int):
                    dim.dim_value = axis
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    folder.mkdir()
    save_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True), folder / "model.onnx")
    return folder / "model.onnx"


def rewrite_inputs(path: Path, folder: Path, values: Mapping[str, np.ndarray], batch_axes: Mapping[str, int]) -> Path:
    """A copy of an ONNX file in `folder`: inputs in `values` are constants, what is in `batch_axes` (inputs, outputs)
    has that axis as its first."""
    model = require("onnx", "onnx").load(path)
    _fold_inputs(model, values)
    _batch_first(model, batch_axes)
    folder.mkdir()
    save_onnx(model, folder / "model.onnx")
    return folder / "model.onnx"


def _fold_inputs(model: Any, values: Mapping[str, np.ndarray]) -> None:
    """Make constants of some inputs."""
    onnx = require("onnx", "onnx")
    for value in [value for value in model.graph.input if value.name in values]:
        model.graph.input.remove(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values[value.name]), value.name))


def _batch_first(model: Any, axes: Mapping[str, int]) -> None:
    """Move an axis of some inputs and outputs to the front, with a Transpose behind the input or before the output."""
    onnx = require("onnx", "onnx")
    graph = model.graph
    inputs = {value.name for value in graph.input}
    for value in (*graph.input, *graph.output):
        if value.name not in axes:
            continue
        name, inner, axis = value.name, f"{value.name}__inner", axes[value.name]
        _rename(graph, {name: inner})
        value.name = name
        dims = value.type.tensor_type.shape.dim
        order = [
            axis,
            *(i for i in range(len(dims)) if i != axis),
        ]  # from the file's axes to those with the batch first
        moved = [type(dims[i]).FromString(dims[i].SerializeToString()) for i in order]
        del dims[:]
        dims.extend(moved)
        if name in inputs:
            back = [order.index(i) for i in range(len(order))]
            node = onnx.helper.make_node("Transpose", [name], [inner], perm=back, name=f"{name}__batch_first")
            graph.node.insert(0, node)
        else:
            node = onnx.helper.make_node("Transpose", [inner], [name], perm=order, name=f"{name}__batch_first")
            graph.node.append(node)


def external_files(model: Any) -> set[str]:
    """Names of the files, relative to the model, that hold its external weights."""
    onnx = require("onnx", "onnx")
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    return {
        entry.value
        for tensor in _get_all_tensors(model)
        if uses_external_data(tensor) and tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _name_values(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their public names.

    The exporter's own `output_names` does not look whether an inner value has that name (an nn.Embedding's is
    "embedding") and then writes a file in which two values share it.
    """
    onnx = require("onnx", "onnx")
    graph = model.graph
    public = [*inputs, *outputs]
    own = [value.name for value in (*graph.input, *graph.output)]
    if len(set(public)) != len(public):
        raise ValueError(f"names of inputs and outputs must differ: {', '.join(public)}")
    names = dict(zip(own[: len(inputs)], inputs, strict=True))
    for value, name in zip(graph.output, outputs, strict=True):
        if value.name in names:  # an input, or a value that is given out twice
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [f"{name}__copy"], name=f"copy_{name}"))
            value.name = f"{name}__copy"
        names[value.name] = name
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.value_info}
    names.update({name: f"{name}__inner" for name in set(public) & used if name not in names})
    _rename(graph, names)


def _rename(graph: Any, names: dict[str, str]) -> None:
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                _rename(inner, names)


def _name_batch_axis(model: Any) -> None:
    """Rename the exporter's symbol of the first input's first axis (e.g. "s31") to "batch", wherever it occurs."""
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input} - {""}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(
                    r"[A-Za-z_]\w*", lambda match: "batch" if match[0] in symbols else match[0], dim.dim_param
                )


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
