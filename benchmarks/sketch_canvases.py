"""What a further canvas takes on a device: the sketch student's encoders share one set of weights.

    python benchmarks/sketch_canvases.py runs/demo/bundle

C: flash and RAM of a whole query's program for a Cortex-M4 (linked alone; ten photos, so that the gallery is no part of
it), with one canvas and with several. TFLite: bytes of the files, one per canvas.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.writing import RESULTS, write_rows
from compressor.tasks.sketch.firmware import Capacity, write_student
from compressor.tasks.sketch.index import Index
from profiles.device import load_device
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.firmware import build

PHOTOS = 10
CAPACITY = Capacity(points=300, strokes=60)


def program_row(artifact: Artifact, canvases: list[int], width: int, out: Path) -> dict[str, Any]:
    """The program of a student that looks at these canvases, one after the other."""
    selector: dict[str, Any] = {"kind": "fixed", "canvas_px": canvases[0]}
    if len(canvases) > 1:
        doubts = [1.0] * (len(canvases) - 1)
        selector = {"kind": "cascade", "canvases": canvases, "thresholds": doubts}
        selector |= {"measure": "margin", "combine": "all"}
    settings = {**artifact.manifest["settings"], "selector": selector}
    index = Index.build(np.random.default_rng(0).normal(size=(PHOTOS, width)), range(PHOTOS))  # type: ignore[arg-type]
    changed = Artifact(artifact.path, {**artifact.manifest, "settings": settings})
    firmware = build(write_student(out, changed, index, CAPACITY), "m4", "O2", out / "build")
    found = {"flash_bytes": firmware.flash_bytes, "ram_bytes": firmware.ram_bytes, "arena_bytes": firmware.arena_bytes}
    return {"work": "whole query in C, cortex-m4", "canvases": canvases, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "sketch_canvases.json")
    arguments = parser.parse_args()
    began = time.monotonic()
    bundle = Bundle.open(arguments.bundle)
    canvases = sorted(int(name.removeprefix("encoder_")) for name in bundle.graphs if name.startswith("encoder_"))
    with tempfile.TemporaryDirectory() as folder:
        artifact = compile_bundle(bundle, load_device("cortex-m4"), "c", "int8", Path(folder) / "c")
        models = [artifact.files(f"encoder_{px}")[0].parent / "model.tflite" for px in canvases]
        (_, embeddings) = bundle.golden(f"encoder_{canvases[0]}")
        width = next(iter(embeddings.values())).shape[1]
        chosen = [[px] for px in canvases] + ([canvases] if len(canvases) > 1 else [])
        rows = [program_row(artifact, own, width, Path(folder) / f"program-{i}") for i, own in enumerate(chosen)]
        rows += [
            {"work": "int8 .tflite", "canvases": [px], "file_bytes": model.stat().st_size}
            for px, model in zip(canvases, models, strict=True)
        ]
    write_rows(arguments.out, rows, minutes=(time.monotonic() - began) / 60)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
