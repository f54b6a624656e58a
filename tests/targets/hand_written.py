"""Models written by hand that obey the C interface of generated ones: what they compute, take and do wrong is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.storage import save_npz, sha256_tree, write_json
from targets.artifact import Artifact

# int8 x (32) -> int8 x + 1 (32), wrapping.
PLUS_ONE = "for (int i = 0; i < 32; i++) out[i] = (int8_t)(in[i] + 1);"
# y_j = (sum_i W_ji x_i) >> 8 for 32 inputs and 8 outputs; W stands in flash.
PRODUCT = """
    for (int j = 0; j < 8; j++) {
      int32_t sum = 0;
      for (int i = 0; i < 32; i++) sum += weights[j][i] * in[i];
      sum >>= 8;
      out[j] = (int8_t)(sum > 127 ? 127 : sum < -128 ? -128 : sum);
    }"""
SCALES = (1 / 64, 1 / 4)  # of PRODUCT's inputs and outputs, in real numbers
WEIGHTS = np.random.default_rng(5).integers(-127, 128, (8, 32)).astype(np.int8)


def product(x: np.ndarray) -> np.ndarray:
    """What PRODUCT computes for int8 rows (n, 32): int8 (n, 8)."""
    return np.clip((x.astype(np.int32) @ WEIGHTS.T.astype(np.int32)) >> 8, -128, 127).astype(np.int8)


def weights_in_c() -> str:
    rows = ",\n".join("{" + ", ".join(str(value) for value in row) + "}" for row in WEIGHTS.tolist())
    return f"static const int8_t weights[8][32] = {{{rows}}};"


def write_model(
    folder: Path,
    body: str,
    *,
    before: str = "",
    run: str | None = None,
    inputs: int = 32,
    outputs: int = 32,
    arena: int | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
) -> Path:
    """model.c and model.json of a network called "net": `inputs` int8 numbers in, `outputs` out, `body` between them.

    `before` stands before the functions, `run` replaces the whole run function."""
    folder.mkdir(parents=True, exist_ok=True)
    arena = inputs + outputs if arena is None else arena
    function = (
        run or f"void net_run(void) {{\n  int8_t *in = arena, *out = arena + {inputs}; (void)in, (void)out;\n{body}\n}}"
    )
    (folder / "model.c").write_text(
        f"""#include <stdint.h>
#include <string.h>
static int8_t arena[{arena}];
{before}
{function}
void *net_input(int index) {{ (void)index; return arena; }}
void *net_output(int index) {{ (void)index; return arena + {inputs}; }}
"""
    )

    def port(name: str, size: int, scale: float) -> dict[str, Any]:
        return {"name": name, "dtype": "int8", "shape": [1, size], "bytes": size, "scale": scale, "zero_point": 0}

    description = {
        "name": "net",
        "arena_bytes": arena,
        "constant_bytes": 0,
        "inputs": [port("x", inputs, scales[0])],
        "outputs": [port("y", outputs, scales[1])],
        "operators": {},
        "macs": 0,
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def write_artifact(
    path: Path,
    body: str,
    inputs: np.ndarray,
    outputs: np.ndarray,
    splits: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    options: Mapping[str, Any] | None = None,
    **model: Any,
) -> Artifact:
    """An artifact of the runtime c whose one graph is a model written by hand; golden rows are given as float."""
    sizes = {"inputs": inputs.shape[1], "outputs": outputs.shape[1]}
    write_model(path / "graphs" / "net", body, **sizes, **model)
    save_npz(path / "golden.npz", {"net/inputs/x": inputs, "net/outputs/y": outputs})
    for name, arrays in (splits or {}).items():
        save_npz(path / name, arrays)
    (path / "assets").mkdir()
    specs = {
        f"{key}s": [{"name": name, "dtype": "float32", "shape": ["batch", sizes[f"{key}s"]]}]
        for key, name in (("input", "x"), ("output", "y"))
    }
    entry = {
        "name": "net", **specs, "status": "built", "reason": None, "files": _files("net"), "precision": "int8",
        "notes": [], "options": dict(options or {}), "bytes": 1, "sha256": "0" * 64, "parity": None, "ran_on": None,
    }  # fmt: skip
    manifest = {
        "format": 1, "student": "hand", "task": "model", "glue": "model",
        "settings": {"graph": "net", "metric": "mae" if splits else None}, "uses": {"query": {"net": 1}},
        "inputs": "real", "random_weights": False, "has_metric": bool(splits), "teacher_values": {}, "device": "board",
        "runtime": "c", "runtime_version": "1", "precision_requested": "int8", "graphs": {"net": entry},
        "files": sha256_tree(path), "status": "built", "reason": None, "sha256": "0" * 64,
    }  # fmt: skip
    write_json(path / "artifact.json", manifest)
    return Artifact.open(path)


def rows(count: int, seed: int = 1) -> np.ndarray:
    """Real numbers (count, 32) on PRODUCT's own grid: x = q / 64."""
    return (np.random.default_rng(seed).integers(-127, 128, (count, 32)) / 64).astype(np.float32)


def answers(x: np.ndarray) -> np.ndarray:
    """PRODUCT in real numbers, y = q / 4."""
    return (product(np.rint(x * 64).astype(np.int8)) / 4).astype(np.float32)


def product_artifact(path: Path, **options: Any) -> Artifact:
    """PRODUCT with a validation part of 30 items and a test part of 20; `options` of the runtime."""
    splits = {
        name: {"inputs/x": rows(count, seed), "targets": answers(rows(count, seed))}
        for name, count, seed in (("eval.npz", 30, 2), ("test.npz", 20, 3))
    }
    x = rows(12)
    return write_artifact(path, PRODUCT, x, answers(x), splits, options, before=weights_in_c(), scales=SCALES)


def _files(graph: str) -> Sequence[str]:
    return [f"graphs/{graph}/{name}" for name in ("model.c", "model.json")]
