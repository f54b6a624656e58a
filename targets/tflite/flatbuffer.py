"""Edits of a `.tflite` file: names and order of inputs and outputs as the graph has them, and short names inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiles.errors import require
from targets.graph import Graph
from targets.tflite.schema import EXTRA

SIGNATURE = "serving_default"
GATHER_VERSION = 2  # the first one with int8


def unpack(raw: bytes) -> Any:
    """The file as a mutable tree (the schema's ModelT), with every buffer inside it."""
    schema = require("ai_edge_litert.schema_py_generated", EXTRA)
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    for buffer in content.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return content


def pack(content: Any) -> bytes:
    """The tree as a file."""
    builder = require("flatbuffers", EXTRA).Builder(1 << 20)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def named_as(graph: Graph, raw: bytes) -> bytes:
    """The same file with the graph's names at its inputs and outputs, in the graph's order, short names inside and
    every buffer in the flatbuffer.

    Raises RuntimeError if the converter dropped an input that nothing reads, or gave another number of outputs.
    """
    content = unpack(raw)
    subgraph = content.subgraphs[0]
    signature = content.signatureDefs[0]
    ends = [(signature.inputs, graph.inputs, "input"), (signature.outputs, graph.outputs, "output")]
    taken: dict[int, str] = {}
    for entries, specs, kind in ends:
        if len(entries) != len(specs):
            raise RuntimeError(f"the converter made {len(entries)} {kind}s of the graph's {len(specs)}")
        entries.sort(key=lambda entry: int(entry.name.decode().rsplit("_", 1)[1]))  # args_0, output_0, ...
        for entry, spec in zip(entries, specs, strict=True):
            entry.name = spec.name.encode()
            taken.setdefault(entry.tensorIndex, spec.name)
    subgraph.inputs = [entry.tensorIndex for entry in signature.inputs]
    subgraph.outputs = [entry.tensorIndex for entry in signature.outputs]
    names = set(taken.values())
    for index, tensor in enumerate(subgraph.tensors):
        tensor.name = (taken.get(index) or _unique(_short(tensor.name.decode()), names)).encode()
    return pack(content)


def with_gathers(raw: bytes) -> bytes:
    """The same file with each EMBEDDING_LOOKUP as a GATHER, which picks the same rows. Rows that EMBEDDING_LOOKUP takes
    of an int8 table are float; those of GATHER are int8 as well."""
    schema = require("ai_edge_litert.schema_py_generated", EXTRA)
    builtin = schema.BuiltinOperator
    content = unpack(raw)
    lookups = [
        i for i, c in enumerate(content.operatorCodes) if max(c.builtinCode, c.deprecatedBuiltinCode)
        == builtin.EMBEDDING_LOOKUP
    ]  # fmt: skip
    if not lookups:
        return raw
    for index in lookups:
        code = content.operatorCodes[index]
        code.builtinCode = code.deprecatedBuiltinCode = builtin.GATHER
        code.version = GATHER_VERSION
    for operator in (operator for subgraph in content.subgraphs for operator in subgraph.operators):
        if operator.opcodeIndex in lookups:
            ids, table = operator.inputs
            operator.inputs = [table, ids]
            operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
            operator.builtinOptions = schema.GatherOptionsT()  # axis 0
    return pack(content)


def _short(name: str) -> str:
    """The module path of the converter's name: "nets.Net/torch.nn.modules.conv.Conv2d_stem;1" becomes "stem".

    An operator that was fused of several has their names in a row, the last one first.
    """
    first = name.split(";")[0]
    parts = [part.rsplit(".", 1)[-1].split("_", 1) for part in first.split("/")]
    return "/".join(part[1] for part in parts if len(part) == 2) or "graph"


def _unique(name: str, names: set[str]) -> str:
    """`name`, or `name;N`, that is not in `names` yet; it is added there."""
    found, count = name, 0
    while found in names:
        count += 1
        found = f"{name};{count}"
    names.add(found)
    return found
