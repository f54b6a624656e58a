"""A user's ONNX file -> a torch module of the same numbers, by onnx2torch and `onnx_operators`.

The file is first given fixed shapes and simplified, so that what computes shapes from shapes is gone. What cannot be
mapped is named before anything starts, and the module is compared with the file before it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import MissingError, require
from targets.graph import Graph
from targets.parity import compare, failure
from targets.quiet import quiet
from targets.target import GraphError, GraphSource
from targets.tflite.onnx_operators import OPERATORS, Node, UnsupportedForm, attribute_values
from targets.tflite.onnx_patterns import name_hard_swish

EXTRA = "tflite"
DOMAIN = "edge_compressor"
NEWEST_OPSET = 17  # of onnx2torch's converters; newer forms of what it maps differ in types only
ROWS = 4  # that the module is compared with the file on
HINTS = {
    "GRU": "export the cell of one step, written out, and loop on the host",
    "LSTM": "export the cell of one step, written out, and loop on the host",
    "RNN": "export the cell of one step, written out, and loop on the host",
    "If": "its condition depends on the input: export the branch that you need",
    "Loop": "loop on the host",
    "Scan": "loop on the host",
    "NonMaxSuppression": "run it on the host",
    "NonZero": "its output has no fixed shape: run it on the host",
}


def unconvertible(path: Path, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Operators of an ONNX file that cannot be mapped to torch, by name, count and first node; None if all can.

    `shapes`: of one call's inputs.
    """
    key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
    return _unconvertible(path, path.stat().st_mtime_ns, key)


@functools.lru_cache(maxsize=32)  # asked once per precision, and simplifying takes a second
def _unconvertible(path: Path, _changed: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> str | None:
    model = prepared(path, dict(shapes))
    unknown: dict[str, list[str]] = {}
    for node in model.graph.node:
        if not _is_known(node, model):
            name = node.op_type if node.domain in ("", DOMAIN) else f"{node.domain}.{node.op_type}"
            unknown.setdefault(name, []).append(node.name or node.output[0])
    if not unknown:
        return None
    found = "; ".join(
        f"{name} (x{len(nodes)}, first {nodes[0]})" + (f": {hint}" if (hint := _hint(name)) else "")
        for name, nodes in unknown.items()
    )
    return f"no way to TFLite for {found}"


def _hint(name: str) -> str | None:
    return "its shape, axes or sizes are computed from the data" if name in OPERATORS else HINTS.get(name)


def _is_known(node: Any, model: Any) -> bool:
    """Whether a converter exists. What is ours is in a domain of its own by now, unless what must be constant in it
    (shapes, axes, sizes) is computed from the data."""
    if node.domain == DOMAIN:
        try:
            OPERATORS[node.op_type].make(_node(node))
        except UnsupportedForm:
            return False
        return True
    if node.op_type in HINTS or (node.domain in ("", "ai.onnx") and node.op_type in OPERATORS):
        return False
    registry = require("onnx2torch.node_converters.registry", EXTRA)
    require("onnx2torch", EXTRA)  # fills the registry
    try:
        registry.get_converter(node.op_type, _opset(model), node.domain)
    except NotImplementedError:
        return False
    return True


def _node(proto: Any) -> Node:
    """What a maker sees of a node of ours."""
    onnx = require("onnx", EXTRA)
    values = attribute_values(proto.attribute, onnx.helper)
    held = {name: values.pop(name) for name in list(values) if name.startswith("constant_")}
    constants = {int(name.split("_")[1]): onnx.numpy_helper.to_array(value) for name, value in held.items()}
    return Node(values, constants, len(proto.output))


def _opset(model: Any) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


# -- the file, made ready ----------------------------------------------------------------------------------------------


def prepared(path: Path, shapes: Mapping[str, Sequence[int]]) -> Any:
    """The model with fixed input shapes, simplified, its operators of `onnx_operators` in our own domain."""
    from targets.onnx_branches import fold_ifs, simplified
    from targets.onnx_files import load_onnx

    onnx = require("onnx", EXTRA)
    require("onnxslim", EXTRA)
    load_onnx(path)  # raises RequestError if the file is broken
    model = require("onnx.inliner", EXTRA).inline_local_functions(onnx.load(path))
    _fix_inputs(model, shapes)
    model = simplified(model)
    if fold_ifs(model):
        model = simplified(model)
    _hoist_constants(model)
    name_hard_swish(model)
    with quiet():
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _take_over(model)
    _copy_outputs(model)
    return model


def _fix_inputs(model: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the shapes into the graph's inputs; what was inferred of other shapes is dropped."""
    for value in model.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, shapes[value.name], strict=True):
                dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()


def _hoist_constants(model: Any) -> None:
    """Constant nodes as initializers, as the other constants are."""
    onnx = require("onnx", EXTRA)
    kept = []
    for node in model.graph.node:
        value = onnx.helper.get_attribute_value(node.attribute[0]) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        if not isinstance(value, onnx.TensorProto):
            kind = np.float32 if "float" in node.attribute[0].name else np.int64
            value = onnx.numpy_helper.from_array(np.asarray(value, kind))
        value.name = node.output[0]
        model.graph.initializer.append(value)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _take_over(model: Any) -> None:
    """Move nodes that `onnx_operators` knows into our domain, shapes and axes as attributes, and pin the opset."""
    onnx = require("onnx", EXTRA)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        known = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if known is None:
            continue
        held = {i: name for i, name in enumerate(node.input) if i in known.constants and name}
        if node.op_type == "Gather" and _is_scalar(constants.get(node.input[1])):
            held = {1: node.input[1]}
        if not all(name in constants for name in held.values()):
            continue  # a shape that is computed from data: onnx2torch's own, if it has one
        kept = [name for i, name in enumerate(node.input) if i not in held and not (i in known.constants and not name)]
        del node.input[:]
        node.input.extend(kept)
        node.attribute.extend(onnx.helper.make_attribute(f"constant_{i}", constants[n]) for i, n in held.items())
        node.domain = DOMAIN
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, NEWEST_OPSET)
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))


def _is_scalar(tensor: Any) -> bool:
    return tensor is not None and not tensor.dims


def _copy_outputs(model: Any) -> None:
    """An Identity in front of every output: onnx2torch mixes up outputs that one node makes."""
    onnx = require("onnx", EXTRA)
    for value in model.graph.output:
        inner = f"{value.name}/inner"
        for node in model.graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == value.name:
                        names[i] = inner
        for tensor in (*model.graph.initializer, *model.graph.value_info):
            if tensor.name == value.name:
                tensor.name = inner
        given = {value.name for value in model.graph.input}
        source = value.name if value.name in given else inner
        if source != value.name:
            model.graph.node.append(
                onnx.helper.make_node("Identity", [source], [value.name], name=f"{value.name}/copy")
            )


# -- the module --------------------------------------------------------------------------------------------------------


def program_module(source: GraphSource, shapes: Mapping[str, Sequence[int]]) -> Any:
    """The module of an exported program of the file, for inputs of these shapes.

    Raises GraphError if an operator has a form that cannot be mapped, or the module's outputs are not the file's.
    """
    require("torch", "train")
    import torch

    onnx2torch = require("onnx2torch", EXTRA)
    _register()
    model = prepared(source.onnx, shapes)
    feeds = _feeds(source, shapes)
    example = tuple(torch.from_numpy(np.ascontiguousarray(value[: shapes[name][0]])) for name, value in feeds.items())
    try:
        with quiet(), torch.no_grad():
            module = _ordered(onnx2torch.convert(model), model, source.graph).eval()
            program = torch.export.export(module, example).module()
    except UnsupportedForm as error:
        raise GraphError(f"graph {source.graph.name}: no way to TFLite for {error}") from None
    _check(source, program, feeds, shapes)
    return program


def _register() -> None:
    """Tell onnx2torch of our operators, once."""
    from torch import nn

    registry = require("onnx2torch.node_converters.registry", EXTRA)
    common = require("onnx2torch.utils.common", EXTRA)

    class Function(nn.Module):
        def __init__(self, name: str, node: Node) -> None:
            super().__init__()
            self.name = name
            try:
                self.function = OPERATORS[name].make(node)
            except UnsupportedForm as error:
                raise UnsupportedForm(f"{name} {error}") from None

        def forward(self, *tensors: Any) -> Any:
            try:
                return self.function(*tensors)
            except UnsupportedForm as error:
                raise UnsupportedForm(f"{self.name} {error}") from None

    def convert(node: Any, graph: Any) -> Any:
        module = Function(node.operation_type, _node(node.proto))
        return common.OperationConverterResult(module, common.onnx_mapping_from_node(node))

    for name in OPERATORS:
        try:
            registry.add_converter(name, 1, DOMAIN)(convert)
        except ValueError:  # told before, in this process
            return


def _ordered(module: Any, model: Any, graph: Graph) -> Any:
    """The module, taking its inputs in the graph's order."""
    from torch import nn

    weights = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in weights]
    order = [[spec.name for spec in graph.inputs].index(name) for name in names]
    if order == list(range(len(order))):
        return module

    class Ordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Any) -> Any:
            return self.inner(*(inputs[i] for i in order))

    return Ordered()


def _feeds(source: GraphSource, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Inputs to compare on: golden, calibration or, where there are neither, zeros."""
    given = source.golden or source.calibration
    if given:
        count = max(ROWS, *(shape[0] for shape in shapes.values()))
        return {spec.name: given[spec.name][:count] for spec in source.graph.inputs}
    return {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in source.graph.inputs}


def _check(source: GraphSource, program: Any, feeds: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> None:
    """Compare with the file. Raises GraphError if the module's outputs are others."""
    from targets.session import ModuleSession

    step = next(iter(shapes.values()))[0]
    count = len(next(iter(feeds.values()))) // step * step
    session, reference = ModuleSession(source.graph, program), _reference(source)
    parts = [{name: value[i : i + step] for name, value in feeds.items()} for i in range(0, count, step)]
    for part in parts:
        reason = failure(compare(reference(part), session(part)), "fp32")
        if reason is not None:
            raise GraphError(f"graph {source.graph.name}: the ONNX file as a torch module {reason}")


def _reference(source: GraphSource) -> Any:
    """What runs the file: ONNX Runtime where it is installed, else the (slow) reference of `onnx`."""
    from targets.target import get_target

    try:
        return get_target("onnx").open(source.graph, (source.onnx,), "fp32", {"threads": 1})
    except MissingError:
        reference = require("onnx.reference", EXTRA).ReferenceEvaluator(str(source.onnx))
        names = [spec.name for spec in source.graph.outputs]
        return lambda feeds: dict(zip(names, reference.run(names, dict(feeds)), strict=True))
