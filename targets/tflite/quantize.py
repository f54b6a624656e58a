"""Float `.tflite` -> int8 and float16 files by ai-edge-quantizer, and what in a file is quantised.

Ranges are the smallest and largest values that the calibration inputs give: the quantizer's own default is an
exponential average over the samples, which clips. Activations of 16 bits (16x8) are not offered: they are 10 to 50
times slower on a CPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import require
from targets.quiet import silent
from targets.tflite.affine import narrowed
from targets.tflite.biases import with_room_for_biases
from targets.tflite.flatbuffer import SIGNATURE
from targets.tflite.schema import EXTRA, FLOATS, Model, Operator, inline_buffers, read_model

# What moves or shapes data, or converts it: no arithmetic that could have stayed float.
# fmt: off
MOVES = frozenset((
    "BROADCAST_TO", "CAST", "CONCATENATION", "DEQUANTIZE", "EXPAND_DIMS", "MAX_POOL_2D", "MIRROR_PAD", "PACK", "PAD",
    "PADV2", "QUANTIZE", "RESHAPE", "SLICE", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE",
    "UNPACK",
))
# fmt: on
HALF_WEIGHTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "EMBEDDING_LOOKUP")


def full_int8(float_tflite: Path, feeds: Mapping[str, np.ndarray], out: Path) -> int:
    """Write the full-integer int8 file of a float file: int8 inputs and outputs (integer inputs stay as they are), int8
    weights per channel, every buffer inlined. Returns the number of rows that the ranges were taken from.

    `feeds`: the file's inputs by name, (rows, ...).
    """
    out.write_bytes(static_int8(float_tflite.read_bytes(), feeds))
    return len(next(iter(feeds.values())))


def static_int8(raw: bytes, feeds: Mapping[str, np.ndarray], exclude: Sequence[str] = ()) -> bytes:
    """`full_int8` on bytes. The operators that give the tensors `exclude` stay float, and so does a division whose
    divisor may round to zero, which int8 kernels refuse."""
    recipe = static_recipe()
    ranges = tensor_ranges(raw, recipe, feeds)
    names = {*exclude, *_risky_divisions(read_model(raw), ranges)}
    kept = [
        {"regex": exactly(operator.outputs[0].name), "operation": operator.kind, "algorithm_key": "no_quantize"}
        for operator in read_model(raw).operators
        if operator.outputs[0].name in names
    ]
    return with_room_for_biases(quantized(raw, recipe + kept, ranges), raw)


def static_recipe() -> list[dict[str, Any]]:
    """Every operator in int8: weights per channel, activations per tensor."""
    return list(require("ai_edge_quantizer.recipe", EXTRA).static_wi8_ai8())


def exactly(name: str) -> str:
    """The regular expression by which a recipe's rule finds the operator that gives a tensor."""
    return f"^{re.escape(name)};?$"


def _risky_divisions(model: Model, ranges: Mapping[str, Any]) -> list[str]:
    """Outputs of divisions whose divisor comes within a step of its int8 scale to zero."""
    found = []
    for operator in model.operators:
        if operator.kind == "DIV" and operator.inputs[1] is not None and not operator.inputs[1].is_constant:
            seen = ranges.get(operator.inputs[1].name)
            low, high = (float(np.ravel(seen[end])[0]) for end in ("min", "max")) if seen else (0.0, 0.0)
            step = (max(high, 0.0) - min(low, 0.0)) / 255
            if low <= step and high >= -step:
                found.append(operator.outputs[0].name)
    return found


def dynamic_int8(raw: bytes) -> bytes:
    """int8 weights (tables of embeddings, too); activations are float and quantised while the file runs."""
    recipes = require("ai_edge_quantizer.recipe", EXTRA)
    names = require("ai_edge_quantizer.qtyping", EXTRA).TFLOperationName
    lookup = recipes.dynamic_wi8c_afp32(operation_name=names.EMBEDDING_LOOKUP)
    return quantized(raw, [*recipes.dynamic_wi8_afp32(), *lookup])


def half_weights(raw: bytes) -> bytes:
    """float16 weights of layers and embeddings; the runtime turns them into what it computes in."""
    names = require("ai_edge_quantizer.qtyping", EXTRA).TFLOperationName
    manager = require("ai_edge_quantizer.recipe_manager", EXTRA).RecipeManager()
    casting = require("ai_edge_quantizer.algorithm_manager", EXTRA).AlgorithmName.FLOAT_CASTING
    for name in HALF_WEIGHTS:
        manager.add_weight_only_config(".*", names[name], num_bits=16, algorithm_key=casting)
    return quantized(raw, manager.get_quantization_recipe())


def quantized(raw: bytes, recipe: Any, ranges: Any = None) -> bytes:
    """Apply an ai-edge-quantizer recipe; `ranges` for one that quantises activations."""
    quantizer = require("ai_edge_quantizer.quantizer", EXTRA)
    with silent():
        result = quantizer.Quantizer(raw, recipe).quantize(ranges, enable_progress_report=False)
        return inline_buffers(bytes(result.quantized_model))


def tensor_ranges(raw: bytes, recipe: Any, feeds: Mapping[str, np.ndarray]) -> Any:
    """Tensor name -> smallest and largest value over all rows, as the quantizer wants it."""
    calibrator = require("ai_edge_quantizer.calibrator", EXTRA)
    manager = require("ai_edge_quantizer.recipe_manager", EXTRA).RecipeManager()
    update = require("ai_edge_quantizer.utils.qsv_utils", EXTRA).min_max_update
    manager.load_quantization_recipe(recipe)
    with silent():
        worker = calibrator.Calibrator(raw, num_threads=1, qsv_update_func=update)
        worker.calibrate({SIGNATURE: _rows(feeds)}, manager)
    return worker.get_model_qsvs()


def _rows(feeds: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """One sample per row, in the types of a converted file."""
    narrow = {name: narrowed(value) for name, value in feeds.items()}
    count = len(next(iter(feeds.values())))
    return [{name: value[i : i + 1] for name, value in narrow.items()} for i in range(count)]


# -- what a file does --------------------------------------------------------------------------------------------------


def has_int8_weights(operator: Operator) -> bool:
    return any(t is not None and t.is_constant and t.dtype == "int8" for t in operator.inputs)


def computes_in_float(operator: Operator) -> bool:
    tensors = (*operator.inputs, *operator.outputs)
    return any(t is not None and not t.is_constant and t.dtype in FLOATS for t in tensors)


def quantized_operators(model: Model) -> dict[str, int]:
    """Operators with int8 weights, by name and count."""
    return dict(Counter(operator.kind for operator in model.operators if has_int8_weights(operator)))


def float_operators(model: Model) -> list[Operator]:
    """What computes in float: neither moves of data nor operators with int8 weights (which quantise as they run)."""
    return [
        operator
        for operator in model.operators
        if computes_in_float(operator) and operator.kind not in MOVES and not has_int8_weights(operator)
    ]
