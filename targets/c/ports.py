"""Arrays of a graph <-> integers that a generated model reads and writes, by an entry of its model.json.

An entry without a scale is an integer as it is (ids); so is an integer of the graph that the model stores with a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from targets.tflite.affine import dequantize, quantize


def to_model(value: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """An input as the model takes it. Raises ValueError if an integer does not fit into the model's type."""
    if entry["scale"] is not None and np.issubdtype(value.dtype, np.floating):
        return quantize(value, entry["scale"], entry["zero_point"], entry["dtype"])
    narrow = value.astype(entry["dtype"])
    if not np.array_equal(narrow, value):
        raise ValueError(f"input {entry['name']}: a value does not fit into {entry['dtype']}")
    return narrow


def from_model(value: np.ndarray, entry: Mapping[str, Any], dtype: str) -> np.ndarray:
    """An output as the graph gives it."""
    if entry["scale"] is not None and np.issubdtype(np.dtype(dtype), np.floating):
        return dequantize(value, entry["scale"], entry["zero_point"]).astype(dtype, copy=False)
    return value.astype(dtype, copy=False)
