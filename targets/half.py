"""Half-precision ONNX: a float32 file becomes one whose tensors are float16, with float32 inputs and outputs.

Driven by the operators' own schemas: a tensor becomes half where the schema of the operator that makes or takes it
allows float16, and is cast where it does not (Range, NonMaxSuppression, the scales of Resize, control flow). So the
result passes the full checker. Runtimes hide overflow by computing in float32: `overflows` finds it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Arrays
from targets.target import GraphSource

SUFFIX = "__half"
HALF_MAX = 65504.0
HALF_TYPE = "tensor(float16)"
# Where a constant of -1e9 or 3e38 stands for "never" or "no limit", and 65504 does as well.
CLIPPABLE = frozenset(("Add", "Clip", "Concat", "Expand", "Max", "Min", "Pad", "Sub", "Where"))
ROWS = 16  # of the golden inputs, that overflow is looked for on


def convert_to_half(model: Any) -> tuple[Any, dict[str, int], int]:
    """A float16 copy of a float32 ModelProto.

    Returns (model, operators that stayed float32 by name and count, number of constants clipped to +-65504).
    Constants beyond float16 are clipped where that keeps their meaning (attention masks of -1e9); elsewhere the
    operator that takes them stays float32.
    """
    onnx = require("onnx", "onnx")
    inliner = require("onnx.inliner", "onnx")
    source = onnx.shape_inference.infer_shapes(inliner.inline_local_functions(model))
    conversion = _Conversion(source)
    for node in source.graph.node:
        conversion.convert(node)
    graph = onnx.helper.make_graph(
        conversion.finish(),
        source.graph.name or "graph",
        list(source.graph.input),
        list(source.graph.output),
        conversion.initializers(),
    )
    result = onnx.helper.make_model(
        graph, opset_imports=list(source.opset_import), ir_version=source.ir_version, producer_name="edge-compressor"
    )
    return result, conversion.float_operators, conversion.clipped


class _Conversion:
    """Each float tensor `t` may exist as float32 under its own name, as half under `t__half`, or as both."""

    def __init__(self, source: Any) -> None:
        self.onnx = onnx = require("onnx", "onnx")
        self.graph = source.graph
        self.opsets = {entry.domain: entry.version for entry in source.opset_import}
        self.constants: dict[str, Any] = {tensor.name: tensor for tensor in source.graph.initializer}
        values = [*source.graph.input, *source.graph.output, *source.graph.value_info]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types.update({name: tensor.data_type for name, tensor in self.constants.items()})
        self.exists = {value.name for value in source.graph.input} | set(self.constants)
        self.nodes: list[Any] = []
        self.half_constants: dict[str, Any] = {}
        self.used_constants: set[str] = set()
        self.float_operators: dict[str, int] = {}
        self.clipped = 0
        self.FLOAT = onnx.TensorProto.FLOAT

    def convert(self, node: Any) -> None:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            self._constant(node)
            return
        inputs, outputs = self._half_arguments(node)
        new = self.onnx.NodeProto()
        new.CopyFrom(node)
        for name in self._captured(node):
            self._want(name, half=False)
        for i, name in enumerate(node.input):
            new.input[i] = self._want(name, half=i in inputs) if name else ""
        for i, name in enumerate(node.output):
            new.output[i] = name + SUFFIX if i in outputs else name
            self.exists.add(new.output[i])
        if outputs:
            self._convert_attributes(new)
        elif self._computes_float(node):
            self.float_operators[node.op_type] = self.float_operators.get(node.op_type, 0) + 1
        self.nodes.append(new)

    def finish(self) -> list[Any]:
        for value in self.graph.output:
            self._want(value.name, half=False)
        return self.nodes

    def initializers(self) -> list[Any]:
        kept = [tensor for name, tensor in self.constants.items() if name in self.used_constants]
        return [*kept, *self.half_constants.values()]

    def _want(self, name: str, half: bool) -> str:
        """The name of a tensor in half or in float32, with a cast or a converted constant if it does not exist yet."""
        wanted = name + SUFFIX if half else name
        if name in self.constants:
            if half and wanted not in self.half_constants:
                self.half_constants[wanted] = self._half_tensor(self.constants[name], wanted)
            elif not half:
                self.used_constants.add(name)
        elif wanted not in self.exists and self.types.get(name) == self.FLOAT:
            other = name if half else name + SUFFIX
            to = self.onnx.TensorProto.FLOAT16 if half else self.FLOAT
            self.nodes.append(self.onnx.helper.make_node("Cast", [other], [wanted], name=f"cast_{wanted}", to=to))
            self.exists.add(wanted)
        return wanted

    def _half_tensor(self, tensor: Any, name: str) -> Any:
        values = self.onnx.numpy_helper.to_array(tensor)
        beyond = np.isfinite(values) & (np.abs(values) > HALF_MAX)
        self.clipped += int(beyond.sum())
        values = np.where(beyond, np.copysign(HALF_MAX, values), values)
        return self.onnx.numpy_helper.from_array(values.astype(np.float16), name)

    def _half_arguments(self, node: Any) -> tuple[set[int], set[int]]:
        """Indices of the node's inputs and outputs that become half."""
        version = self.opsets.get(node.domain) or self.opsets.get("ai.onnx" if not node.domain else "", 0)
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if self._captured(node) or "dtype" in attributes or not self.onnx.defs.has(node.op_type, node.domain):
            return set(), set()
        schema = self.onnx.defs.get_schema(node.op_type, version, node.domain)
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}

        kept = self._kept_inputs(node)
        inputs = self._float_arguments(node.input, schema.inputs)
        outputs = self._float_arguments(node.output, schema.outputs)
        refused = {kind for i, kind in inputs.items() if i in kept}  # one type for all arguments of a kind
        half = {kind for kind in (*inputs.values(), *outputs.values()) if HALF_TYPE in allowed.get(kind, ())} - refused
        chosen = {i for i, kind in outputs.items() if kind in half}
        if outputs and not chosen:
            return set(), set()  # what it makes must be float32: so is what it takes
        return {i for i, kind in inputs.items() if kind in half}, chosen

    def _float_arguments(self, names: Sequence[str], formals: Any) -> dict[int, str]:
        """Index of each float argument -> its type in the schema: a type variable, or a fixed type."""
        return {
            i: formals[min(i, len(formals) - 1)].type_str
            for i, name in enumerate(names)
            if name and self.types.get(name) == self.FLOAT
        }

    def _kept_inputs(self, node: Any) -> set[int]:
        """Inputs that lose their meaning in float16: statistics of a batch norm (a variance may be 1e8 or 1e-9), and
        constants beyond its range, unless clipping them keeps what they do (a mask of -1e9 that is added)."""
        kept = {1, 2, 3, 4} if node.op_type == "BatchNormalization" else set()
        if node.op_type not in CLIPPABLE:
            kept |= {i for i, name in enumerate(node.input) if self._is_beyond_half(name)}
        return kept

    def _is_beyond_half(self, name: str) -> bool:
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != self.FLOAT:
            return False
        values = np.abs(self.onnx.numpy_helper.to_array(tensor))
        return bool(np.any(np.isfinite(values) & (values > HALF_MAX)))

    def _convert_attributes(self, node: Any) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.FLOAT:
                attribute.i = self.onnx.TensorProto.FLOAT16
            elif node.op_type == "ConstantOfShape" and attribute.name == "value":
                attribute.t.CopyFrom(self._half_tensor(attribute.t, attribute.t.name))
        if node.op_type == "ConstantOfShape" and not node.attribute:  # the default value is a float32 zero
            zero = self.onnx.numpy_helper.from_array(np.zeros(1, np.float16), "value")
            node.attribute.append(self.onnx.helper.make_attribute("value", zero))

    def _constant(self, node: Any) -> None:
        """A Constant node becomes an initializer, converted when something wants it in half."""
        attribute, name = node.attribute[0], node.output[0]
        if attribute.name == "value":
            tensor = self.onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
        elif attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            kind = np.float32 if "float" in attribute.name else np.int64
            value = self.onnx.helper.get_attribute_value(attribute)
            tensor = self.onnx.numpy_helper.from_array(np.asarray(value, kind))
        else:  # strings and sparse tensors are no float
            self.nodes.append(node)
            self.exists.add(name)
            return
        tensor.name = name
        self.constants[name] = tensor
        self.types[name] = tensor.data_type

    def _captured(self, node: Any) -> set[str]:
        """Names that a node's subgraphs take from outside (empty if it has none but none are needed either)."""
        names: set[str] = set()
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
                for inner in graph.node:
                    names |= {name for name in inner.input if name in self.types} | self._captured(inner)
                names |= {value.name for value in graph.output if value.name in self.exists}
        return names

    def _computes_float(self, node: Any) -> bool:
        return any(self.types.get(name) == self.FLOAT for name in [*node.input, *node.output])


def overflows(half_path: Path, float_path: Path, feeds: Sequence[Arrays]) -> dict[str, float]:
    """Tensors of the half file that become infinite or NaN where the float32 file's are finite, with the largest
    magnitude that they have in float32, over all of `feeds`.

    Every tensor is made an output, so that each is really stored in float16; a runtime that computes in float32 would
    otherwise hide the overflow. ONNX Runtime does it where it is installed, else the (slow) reference of `onnx`.
    """
    onnx = require("onnx", "onnx")
    half = onnx.shape_inference.infer_shapes(onnx.load(half_path))
    run_half = _exposed(half, [name for name in _float_tensors(half) if name.endswith(SUFFIX)])
    suspects: dict[str, list[Arrays]] = {}
    for chunk in feeds:
        for name, value in run_half(chunk).items():
            if not np.isfinite(value).all():
                suspects.setdefault(name.removesuffix(SUFFIX), []).append(chunk)
    found: dict[str, float] = {}
    if suspects:
        run_float = _exposed(onnx.shape_inference.infer_shapes(onnx.load(float_path)), sorted(suspects))
        for chunk in feeds:
            for name, value in run_float(chunk).items():
                # `any(... is ...)`: feeds are arrays, which have no equality of their own
                if any(chunk is seen for seen in suspects[name]) and np.isfinite(value).all():
                    found[name] = max(found.get(name, 0.0), float(np.abs(value).max()))
    return found


def _float_tensors(model: Any) -> list[str]:
    made = {name for node in model.graph.node for name in node.output}
    return [value.name for value in model.graph.value_info if value.name in made]


def _exposed(model: Any, names: list[str]) -> Callable[[Arrays], dict[str, np.ndarray]]:
    """A function that gives inner tensors of a model."""
    onnx = require("onnx", "onnx")
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name: value for value in model.graph.value_info}
    del exposed.graph.output[:]
    exposed.graph.output.extend(known[name] for name in names if name in known)
    outputs = [value.name for value in exposed.graph.output]
    if not outputs:
        return lambda feeds: {}
    try:
        import onnxruntime
    except ModuleNotFoundError:
        from onnx.reference import ReferenceEvaluator

        reference = ReferenceEvaluator(exposed)
        return lambda feeds: dict(zip(outputs, reference.run(outputs, dict(feeds)), strict=True))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))


def write_half(source: GraphSource, path: Path) -> tuple[dict[str, int], int, str | None]:
    """Write the half file of a graph. Batch norms are folded first where onnxslim can do that.

    Returns (operators that stayed float32 by name and count, constants clipped, one line if it overflows on the golden
    or else the calibration inputs). Without any inputs, the parity on golden outputs is all there is.
    """
    from targets.onnx_files import load_onnx, save_onnx, slim_onnx
    from targets.quantize import chunks

    with tempfile.TemporaryDirectory() as folder:
        slimmed = Path(folder) / "slim.onnx"
        original = slimmed if slim_onnx(source.onnx, slimmed) is None else source.onnx
        model, stayed_float, clipped = convert_to_half(load_onnx(original))
        save_onnx(model, path)
        inputs = source.golden or source.calibration
        feeds = list(chunks(source.graph, inputs, limit=ROWS, step=1)) if inputs else []
        found = overflows(path, original, feeds)
    problem = None
    if found:
        name = max(found, key=lambda key: found[key])
        problem = f"overflows in half precision: {name} reaches {found[name]:.3g}, float16 ends at 65504"
    return stayed_float, clipped, problem


def half_problem(source: GraphSource) -> str | None:
    """Overflow in half precision, found on an ONNX twin: what hardware that computes in float16 would meet with a file
    whose weights are float16. None if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        return write_half(source, Path(folder) / "twin.onnx")[2]
