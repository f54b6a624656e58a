"""What the benchmarks of the sketch task share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def teacher_scores(bundle: Path, part: str = "test") -> np.ndarray:
    """Of a bundle's teacher on its own canvas: 1 or 0 for every query of the part."""
    from types import SimpleNamespace

    import torch

    from compressor.recipe import parse_recipe
    from compressor.tasks.sketch.task import Task
    from compressor.tasks.sketch.teacher import embed_sketches

    recipe = json.loads((bundle / "bundle.json").read_text())["recipe"]
    task: Any = Task(parse_recipe(recipe, "the student's recipe"))
    task.setup(SimpleNamespace())
    device, chosen = torch.device("cpu"), getattr(task.split, part)
    sketches, truth = task.pairs.queries(chosen)
    similarity = embed_sketches(task.teacher, sketches, task.config.teacher.canvas_px, device)
    similarity = similarity @ task.teacher_gallery(chosen, device).T
    right = similarity[np.arange(len(truth)), truth]
    return ((similarity >= right[:, None]).sum(1) == 1).astype(np.float64)
