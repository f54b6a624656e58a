"""Half-precision ONNX: a float32 file becomes one whose tensors are float16, with float32 inputs and outputs.

Driven by the operators' own schemas: a tensor becomes half where the schema of the operator that makes or takes it
allows float16, and is cast where it does not (Range, NonMaxSuppression, the scales of Resize, control flow). So the
result passes the full checker. Runtimes hide overflow by computing in float32: `overflows` finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Arrays

SUFFIX = "__half"
HALF_MAX = 65504.0
HALF_TYPE, FLOAT_TYPE = "tensor(float16)", "tensor(float)"


def convert_to_half(model: Any) -> tuple[Any, dict[str, int], int]:
    """A float16 copy of a float32 ModelProto.

    Returns (model, operators that stayed float32 by name and count, number of constants clipped to +-65504).
    Constants beyond float16 (attention masks of -1e9) are clipped, which keeps their meaning; computed values are not.
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

        def half(names: Iterable[str], formals: Any) -> tuple[set[int], bool]:
            chosen, complete = set(), True
            for i, name in enumerate(names):
                if not name or self.types.get(name) != self.FLOAT:
                    continue
                if HALF_TYPE in allowed.get(formals[min(i, len(formals) - 1)].type_str, ()):
                    chosen.add(i)
                else:
                    complete = False
            return chosen, complete

        outputs, _ = half(node.output, schema.outputs)
        made_float = [i for i, name in enumerate(node.output) if self.types.get(name) == self.FLOAT]
        if made_float and not outputs:
            return set(), set()  # what it makes must be float32: so is what it takes
        return half(node.input, schema.inputs)[0], outputs

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


def overflows(half_path: Path, float_path: Path, feeds: Arrays) -> dict[str, float]:
    """Tensors of the half file that become infinite or NaN where the float32 file's are finite, with the float
    file's largest magnitude.

    Every tensor is made an output, so that each is really stored in float16; a runtime that computes in float32 would
    otherwise hide the overflow. ONNX Runtime does it where it is installed, else the (slow) reference of `onnx`.
    """
    onnx = require("onnx", "onnx")
    half = onnx.shape_inference.infer_shapes(onnx.load(half_path))
    suspects = [name for name in _float_tensors(half) if name.endswith(SUFFIX)]
    found: dict[str, np.ndarray] = {}
    bad = {name for name, value in _run_exposed(half, suspects, feeds).items() if not np.isfinite(value).all()}
    if bad:
        original = onnx.load(float_path)
        names = [name.removesuffix(SUFFIX) for name in sorted(bad)]
        found = _run_exposed(onnx.shape_inference.infer_shapes(original), names, feeds)
    return {name: float(np.abs(value).max()) for name, value in found.items() if np.isfinite(value).all()}


def _float_tensors(model: Any) -> list[str]:
    made = {name for node in model.graph.node for name in node.output}
    return [value.name for value in model.graph.value_info if value.name in made]


def _run_exposed(model: Any, names: list[str], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of inner tensors of a model."""
    onnx = require("onnx", "onnx")
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del exposed.graph.output[:]
    exposed.graph.output.extend(known[name] for name in names if name in known)
    if not exposed.graph.output:
        return {}
    outputs = [value.name for value in exposed.graph.output]
    try:
        import onnxruntime
    except ModuleNotFoundError:
        from onnx.reference import ReferenceEvaluator

        return dict(zip(outputs, ReferenceEvaluator(exposed).run(outputs, dict(feeds)), strict=True))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))


def overflow_problem(half_path: Path, source: Any) -> str | None:
    """One line if a graph overflows in float16 on its golden (or calibration) inputs; None if it does not.

    `source` is the GraphSource that the half file was made from. A graph without inputs to try gives None: then the
    parity on golden outputs is all there is.
    """
    from targets.quantize import chunks

    feeds = source.golden or source.calibration
    worst: dict[str, float] = {}
    for chunk in chunks(source.graph, feeds, limit=64) if feeds else ():
        for name, value in overflows(half_path, source.onnx, chunk).items():
            worst[name] = max(value, worst.get(name, 0.0))
    if not worst:
        return None
    name = max(worst, key=lambda key: worst[key])
    return f"overflows in half precision: {name} reaches {worst[name]:.3g}, float16 ends at 65504"
