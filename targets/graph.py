"""Graph: one network with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from profiles.errors import RequestError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor. An axis is a size, or the name of a dynamic axis; the batch axis is named "batch"."""

    name: str
    dtype: str  # numpy's name, e.g. "float32", "int64"
    shape: tuple[int | str, ...]

    def concrete(self, **axes: int) -> tuple[int, ...]:
        """The shape with every dynamic axis replaced (1 where it is not given)."""
        return tuple(axis if isinstance(axis, int) else axes.get(axis, 1) for axis in self.shape)


@dataclass(frozen=True)
class Graph:
    """One network of a student. `inputs` and `outputs` are ordered as the network takes and gives them."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Graph:
        def specs(items: Any) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(i["name"], i["dtype"], tuple(i["shape"])) for i in items)

        return cls(value["name"], specs(value["inputs"]), specs(value["outputs"]))


def check_feeds(graph: Graph, feeds: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """`feeds` in the graph's order, contiguous. Raises RequestError if names, dtypes or shapes do not match."""
    names = [spec.name for spec in graph.inputs]
    if set(feeds) != set(names):
        raise RequestError(f"{where}: inputs are {', '.join(sorted(feeds))}, but the graph takes {', '.join(names)}")
    checked, count = {}, None
    for spec in graph.inputs:
        value = np.ascontiguousarray(feeds[spec.name])
        if value.dtype.name != spec.dtype:
            raise RequestError(
                f"{where}: input {spec.name} is {value.dtype.name}, the graph takes {spec.dtype}: convert it"
            )
        fits = value.ndim == len(spec.shape) and all(
            not isinstance(want, int) or want == have
            for want, have in zip(spec.shape[1:], value.shape[1:], strict=True)
        )
        if not fits:
            raise RequestError(f"{where}: input {spec.name} has shape {value.shape}, but the graph takes {spec.shape}")
        if count is not None and len(value) != count:
            raise RequestError(f"{where}: inputs have {count} and {len(value)} items; give equally many")
        count = len(value)
        checked[spec.name] = value
    if count == 0:
        raise RequestError(f"{where}: there are no items")
    return checked
