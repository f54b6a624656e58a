"""Structured pruning with torch-pruning, so that a student can start as a carved teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from profiles.errors import RequestError, require

STEPS = 40
Module = TypeVar("Module", bound=nn.Module)


def prune(
    module: Module, example: Tensor, macs_ratio: float, keep: Sequence[nn.Module] = (), round_to: int = 8
) -> Module:
    """A smaller copy of `module`: whole channels of least weight norm are taken out, everywhere in proportion.

    example: an input (1, ...); MACs are counted on it. macs_ratio: the copy has at most this share of the module's.
    keep: layers whose outputs stay as they are (an embedding's width). Channel counts are multiples of `round_to`.
    Deterministic: it depends on the weights only. Raises RequestError if the ratio cannot be reached.
    Source: DepGraph (Fang et al., CVPR 2023); importance: the group's L2 norm.
    """
    torch_pruning = require("torch_pruning", "train")
    if not 0 < macs_ratio < 1:
        raise RequestError(f"macs_ratio {macs_ratio}: it must lie between 0 and 1")
    positions = [name for name, layer in module.named_modules() if any(layer is kept for kept in keep)]
    # What was frozen may be carved too: torch-pruning passes over parameters that take no gradient.
    carved = copy.deepcopy(module).cpu().eval().requires_grad_(True)
    budget = macs_ratio * _macs(carved, example)
    # The whole way down to one group of channels; the loop stops as soon as the budget is met.
    pruner = torch_pruning.pruner.MagnitudePruner(
        carved,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        iterative_steps=STEPS,
        pruning_ratio=1.0,
        ignored_layers=[carved.get_submodule(name) for name in positions],
        round_to=round_to,
    )
    for _ in range(STEPS):
        pruner.step()
        if _macs(carved, example) <= budget:
            return carved
    raise RequestError(f"macs_ratio {macs_ratio}: with channels in groups of {round_to} this network keeps more MACs")


def _macs(module: nn.Module, example: Tensor) -> float:
    from profiles.flops import count_module

    return count_module(module, example).macs
