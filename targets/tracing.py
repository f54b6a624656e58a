"""From a torch module to an exported program, and from a program to a Graph. torch is imported inside."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from profiles.errors import RequestError, require
from targets.graph import Graph, TensorSpec
from targets.quiet import quiet

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def rows(tensor: Any, count: int) -> Any:
    """The first `count` rows of a tensor, repeating it if it has fewer."""
    repeats = -(-count // len(tensor))
    return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:count].contiguous()


def export_program(name: str, module: nn.Module, examples: Mapping[str, Any], dynamic_batch: bool) -> Any:
    torch = require("torch", "train")
    batch = torch.export.Dim("batch")
    shapes = [{0: batch} if dynamic_batch else {} for _ in examples]
    if any(p.kind == p.VAR_POSITIONAL for p in _parameters(module)):
        dynamic_shapes: Any = (tuple(shapes),)
    else:
        dynamic_shapes = tuple(shapes)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, tuple(examples.values()), dynamic_shapes=dynamic_shapes)
    except Exception as error:  # torch.export raises many types
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise RequestError(
            f"graph {name}: torch.export failed ({lines[0].strip()})"
            + ("; if its batch must stay fixed, export it with dynamic_batch=False" if dynamic_batch else "")
        ) from error


def _parameters(module: nn.Module) -> list[Any]:
    return list(inspect.signature(module.forward).parameters.values())


def io_names(program: ExportedProgram) -> tuple[list[str], list[str]]:
    """The program's own names of its inputs and outputs."""
    from torch.export.graph_signature import OutputKind

    signature = program.graph_signature
    outputs = [spec.arg.name for spec in signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    return [str(name) for name in signature.user_inputs], outputs


def graph_of(name: str, program: ExportedProgram, inputs: list[str], outputs: list[str]) -> Graph:
    """The program's inputs and outputs under the given names; a dynamic first axis is the batch.

    Raises RequestError if something is no tensor or has no batch axis in front.
    """
    values: dict[str, Any] = {node.name: node.meta.get("val") for node in program.graph.nodes}
    own_inputs, own_outputs = io_names(program)
    if len(own_outputs) != len(outputs):
        raise ValueError(f"graph {name}: the module gives {len(own_outputs)} outputs, {len(outputs)} names were given")
    batch: int | str | None = None

    def specs(names: list[str], nodes: Sequence[str]) -> tuple[TensorSpec, ...]:
        nonlocal batch
        found = []
        for public, node in zip(names, nodes, strict=True):
            value = values[node]
            if not hasattr(value, "shape") or not len(value.shape):
                raise RequestError(f"graph {name}: {public} is no tensor with a batch axis: make it part of the model")
            shape = [axis if isinstance(axis, int) else str(axis) for axis in value.shape]
            batch = shape[0] if batch is None else batch
            if shape[0] != batch:
                raise RequestError(f"graph {name}: {public} has shape {tuple(shape)}: its first axis is not the batch")
            shape[0] = shape[0] if isinstance(shape[0], int) else "batch"
            found.append(TensorSpec(public, str(value.dtype).removeprefix("torch."), tuple(shape)))
        return tuple(found)

    return Graph(name, specs(inputs, own_inputs), specs(outputs, own_outputs))
