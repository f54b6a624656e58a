"""Arrays of a graph <-> the bytes that a generated model reads and writes, by its model.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from targets.c.ports import from_model, to_model
from targets.graph import Arrays, Graph


def encode(graph: Graph, manifest: Mapping[str, Any], feeds: Arrays) -> list[bytes]:
    """One request per row (per batch of the model's own size): every input in order, quantised where it has a scale.

    Raises ValueError if an integer does not fit the model's type.
    """
    columns = []
    for spec, port in zip(graph.inputs, manifest["inputs"], strict=True):
        stored = np.ascontiguousarray(to_model(np.asarray(feeds[spec.name]), port))
        columns.append(stored.view(np.uint8).reshape(-1, port["bytes"]))
    return [row.tobytes() for row in np.concatenate(columns, axis=1)]


def decode(graph: Graph, manifest: Mapping[str, Any], replies: list[bytes]) -> dict[str, np.ndarray]:
    """The outputs by name, each (n, ...) in the graph's dtype, of one reply per row."""
    table = np.frombuffer(b"".join(replies), np.uint8).reshape(len(replies), -1)
    outputs, start = {}, 0
    for spec, port in zip(graph.outputs, manifest["outputs"], strict=True):
        column = np.ascontiguousarray(table[:, start : start + port["bytes"]])
        start += port["bytes"]
        values = column.view(port["dtype"]).reshape(-1, *port["shape"][1:])
        outputs[spec.name] = from_model(values, port, spec.dtype)
    return outputs
