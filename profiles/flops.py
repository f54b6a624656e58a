"""What a graph costs: multiply-accumulates, parameters and activation bytes, per layer, and what was not counted.

Convention
- Counted: multiply-accumulates (MACs) of layers that multiply and add up - convolutions, matrix products, recurrent
  cells, attention, einsum, cdist. A bias adds nothing. Padding counts as if it were data; a mask does not make
  attention cheaper; recurrent layers run their full length.
- Free by convention: elementwise arithmetic and activations, normalisation, pooling, reductions, softmax, resampling,
  lookups, comparisons, sorting, moving data. profiles/flops_tables.py lists these operators by name.
- Uncounted: everything else, listed by name and count. A loop or branch that depends on the input is listed with what
  is inside it. "NAME (unknown shape)" is an operator that is known but whose shapes could not be inferred.
- FLOPs are 2 x MACs.

A product and a sum written as two elementwise operators are free, however large: the graph does not tell.

Parameters are the trained tensors that the graph uses, each once. In an ONNX file nothing tells a parameter from a
constant: there, every float or 8-bit (or narrower) tensor of rank >= 1 counts, int32 biases of quantised layers too;
scales, zero points, initial states of recurrent layers and single numbers in elementwise operators do not. A folded
batch norm has C parameters in an ONNX file and 2 C in its module, and none if its bias is all zero: the exporter then
drops it.

Activation bytes of a layer are those of its output. Views and in-place operators take none. `peak_activation_bytes` is
the largest sum of tensors that live at the same time, inputs included, in the order of the graph: what a memory planner
starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Layer:
    """One operator of a graph. `output_shape` is that of its first output; () where it is unknown or a scalar."""

    name: str
    op: str
    macs: int
    parameters: int
    activation_bytes: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Costs:
    """What one run of a graph costs on inputs of `input_shapes`; see the module's docstring for the convention."""

    macs: int
    parameters: int
    activation_bytes: int  # of all layers together
    peak_activation_bytes: int
    layers: tuple[Layer, ...]
    uncounted: dict[str, int]
    input_shapes: dict[str, tuple[int, ...]]

    @property
    def flops(self) -> int:
        return 2 * self.macs

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flops": self.flops}


def count_module(
    module: nn.Module, inputs: Sequence[Any] | Mapping[str, Any] | Any, *, batch_axis: int | None = 0
) -> Costs:
    """Count a torch module in eval mode, without running it (its torch.export graph is counted).

    inputs: example tensors, positional (a tensor or a tuple) or by name (a dict). Every tensor is cut to its
    first item along `batch_axis`, so that the count is for a batch of 1; None takes the inputs as they are (for
    modules whose inputs have no common batch axis).
    Raises MissingError without torch, RequestError for a module that torch.export cannot trace.
    """
    from profiles.flops_torch import count_module

    return count_module(module, inputs, batch_axis)


def count_program(program: ExportedProgram | str | Path) -> Costs:
    """Count an exported program, or the `.pt2` file of one. A dynamic first axis counts as 1, others as traced.

    Raises MissingError without torch, RequestError for a file that torch.export cannot load.
    """
    from profiles.flops_torch import count_program

    return count_program(program)


def count_onnx(path: str | Path, shapes: Mapping[str, Sequence[int] | int] | None = None) -> Costs:
    """Count an ONNX file. Its weights are not read: a file with external data costs no memory.

    shapes: input name -> shape, or name of a dynamic axis -> size. An axis that is dynamic and not given is 1 if it
    is the first axis of an input or called "batch"; any other is a RequestError that names it.
    Raises MissingError without onnx, RequestError for a file that is not ONNX and for shapes that do not fit.
    """
    from profiles.flops_onnx import count_onnx

    return count_onnx(Path(path), shapes or {})
