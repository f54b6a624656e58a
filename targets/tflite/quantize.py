"""Float `.tflite` -> int8 and float16 files by ai-edge-quantizer. Ranges are the smallest and largest values seen."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.quiet import quiet
from targets.tflite.flatbuffer import SIGNATURE
from targets.tflite.schema import EXTRA, inline_buffers


def full_int8(float_tflite: Path, feeds: Mapping[str, np.ndarray], out: Path) -> int:
    """Write the full-integer int8 file of a float file: int8 inputs and outputs (integer inputs stay as they are), int8
    weights per channel, every buffer inlined. Returns the number of samples that the ranges were taken from.

    `feeds`: the file's inputs by name, (samples, ...). One calibration sample is one row. The quantizer's own default
    is an exponential average of the samples' ranges, which clips: here they are the smallest and largest values.
    """
    recipes = require("ai_edge_quantizer.recipe", EXTRA)
    raw = quantized(float_tflite.read_bytes(), recipes.static_wi8_ai8(), feeds)
    out.write_bytes(raw)
    return len(next(iter(feeds.values())))


def quantized(raw: bytes, recipe: Any, feeds: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Apply an ai-edge-quantizer recipe; `feeds` are for recipes that need ranges."""
    quantizer = require("ai_edge_quantizer.quantizer", EXTRA)
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        worker = quantizer.Quantizer(raw, recipe)
        ranges = _ranges(raw, recipe, feeds) if feeds is not None else None
        result = worker.quantize(ranges, enable_progress_report=False)
        return inline_buffers(bytes(result.quantized_model))


def _ranges(raw: bytes, recipe: Any, feeds: Mapping[str, np.ndarray]) -> Any:
    """Tensor name -> smallest and largest value over all rows."""
    calibrator = require("ai_edge_quantizer.calibrator", EXTRA)
    manager = require("ai_edge_quantizer.recipe_manager", EXTRA).RecipeManager()
    update = require("ai_edge_quantizer.utils.qsv_utils", EXTRA).min_max_update
    manager.load_quantization_recipe(recipe)
    rows = len(next(iter(feeds.values())))
    narrow = {name: _narrow(value) for name, value in feeds.items()}
    samples = [{name: value[i : i + 1] for name, value in narrow.items()} for i in range(rows)]
    worker = calibrator.Calibrator(raw, num_threads=1, qsv_update_func=update)
    worker.calibrate({SIGNATURE: samples}, manager)
    return worker.get_model_qsvs()


def _narrow(values: np.ndarray) -> np.ndarray:
    """64-bit inputs as the converted file takes them."""
    return values.astype({"int64": np.int32, "float64": np.float32}.get(values.dtype.name, values.dtype))
