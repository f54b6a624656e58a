"""Graph: one network with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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
