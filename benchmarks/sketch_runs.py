"""What the benchmarks of the sketch task share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def teacher_scores(bundle: Path) -> tuple[np.ndarray, float]:
    """Of a bundle's teacher on its own canvas: 1 or 0 for every test query, and acc@1 on the validation part."""
    from types import SimpleNamespace

    import torch

    from compressor.recipe import parse_recipe
    from compressor.tasks.sketch.task import Task
    from compressor.tasks.sketch.teacher import embed_sketches

    recipe = json.loads((bundle / "bundle.json").read_text())["recipe"]
    task: Any = Task(parse_recipe(recipe, "the student's recipe"))
    task.setup(SimpleNamespace())
    device, test = torch.device("cpu"), task.split.test
    sketches, truth = task.pairs.queries(test)
    similarity = embed_sketches(task.teacher, sketches, task.config.teacher.canvas_px, device)
    similarity = similarity @ task.teacher_gallery(test, device).T
    right = similarity[np.arange(len(truth)), truth]
    scores = ((similarity >= right[:, None]).sum(1) == 1).astype(np.float64)
    return scores, task.teacher_accuracy(task.split.validation, device)
