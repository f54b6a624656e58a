"""Every operator of the C generator gives, bit by bit, what TFLite-Micro's reference kernels give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.tflite.schema import Model
from tests.targets import c_cases
from tests.targets.c_oracle import check_bit_exact, examples, random_inputs
from tests.tools import need, need_module

# Random files per family; the slow test takes ten times as many.
CASES = {
    "binary": 400, "copying": 400, "lookup": 200, "pooling": 200, "reducing": 250, "softmax": 100,
    "matrix_product": 140, "gathering": 100, "widths": 80, "reshaping": 40,
    "network": 80,
}  # fmt: skip
CHUNK = 450  # files per library


def inputs_of(family: str) -> Any:
    return {"lookup": every_byte, "gathering": small_indices}.get(family, random_inputs)


def every_byte(model: Model, rng: np.random.Generator) -> list[np.ndarray]:
    return [np.arange(-128, 128).astype(np.int8)]


def small_indices(model: Model, rng: np.random.Generator) -> list[np.ndarray]:
    return [
        rng.integers(0, int(tensor.name.split()[-1]), tensor.shape).astype(np.int32)
        if tensor.dtype == "int32"
        else rng.integers(-128, 128, tensor.shape).astype(np.int8)
        for tensor in model.inputs
    ]


@pytest.mark.parametrize("family", CASES)
def test_an_operator_is_bit_exact_with_tflite_micro(family: str, tmp_path: Path) -> None:
    need("gcc")
    need_module("tflite_micro", "ai_edge_litert")
    check_family(family, CASES[family], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", CASES)
def test_ten_times_as_many_files_are_bit_exact(family: str, tmp_path: Path) -> None:
    need("gcc")
    need_module("tflite_micro", "ai_edge_litert")
    check_family(family, 10 * CASES[family], tmp_path)


def check_family(family: str, count: int, folder: Path) -> None:
    files = examples(getattr(c_cases, family)(), count)
    assert len(files) >= count * 0.9
    for start in range(0, len(files), CHUNK):
        part = folder / str(start)
        part.mkdir()
        check_bit_exact(files[start : start + CHUNK], part, inputs=inputs_of(family))
