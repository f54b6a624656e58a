"""The selector's graph in the bundle: golden inputs are validation sketches, calibration inputs training ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.selector.features import NEAREST, sequence_steps, stroke_statistics
from compressor.tasks.sketch.selector.glue import gate_features
from compressor.tasks.sketch.selector.policies import GruPolicy
from compressor.tasks.sketch.selector.stage import SelectorStage
from compressor.tasks.sketch.simplify import five_tuples, simplify
from compressor.tasks.sketch.teacher import embed_sketches
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from compressor.tasks.sketch.task import Task
    from targets.export import BundleWriter

CPU = torch.device("cpu")
STEPS_PER_SKETCH = 8  # golden and calibration inputs of a GRU's step that one drawing gives


def add_selector(task: Task, stage: SelectorStage, writer: BundleWriter) -> list[str]:
    """Add the graph of the stage's policy; returns its name in a list, which is empty for a cascade."""
    if stage.settings.kind == "cascade":
        return []
    deploy = task.config.deploy
    golden = _spread(task, task.split.validation, deploy.golden)
    calibration = _spread(task, task.split.train, deploy.calibration)
    if stage.settings.kind == "gru":
        policy = stage.policy.deployed.cpu().eval()
        assert isinstance(policy, GruPolicy)
        feeds = _steps(stage, policy, golden)
        writer.add_graph("selector_step", policy.step, feeds, outputs=("next_state", "logits"))
        writer.golden("selector_step", feeds)
        writer.calibration("selector_step", _steps(stage, policy, calibration))
        return ["selector_step"]
    features = _features(task, stage, golden, task.split.validation)
    writer.add_graph("selector", stage.policy.deployed, {"features": features}, outputs=("logits",))
    writer.golden("selector", {"features": features})
    writer.calibration("selector", {"features": _features(task, stage, calibration, task.split.train)})
    return ["selector"]


def _spread(task: Task, indices: np.ndarray, count: int) -> list[Sketch]:
    """At most `count` sketches, evenly spread over the part."""
    return [task.sketches[index] for index in indices[evenly_spread(len(indices), count)]]


def _features(task: Task, stage: SelectorStage, sketches: list[Sketch], part: np.ndarray) -> np.ndarray:
    """z-scores (n, F), as the glue computes them; a gate's first look is at the part's own photos."""
    tolerance = stage.settings.tolerance
    assert stage.scale is not None
    if stage.settings.kind == "statistics":
        return stage.scale(np.stack([stroke_statistics(sketch, tolerance) for sketch in sketches]))
    first = embed_sketches(task.student, sketches, stage.canvases[0], CPU)
    if task.config.gallery == "teacher":
        gallery = np.asarray(task.targets["photos"][part])
    else:
        _, gallery = task.student_embeddings(part, task.config.deploy.canvas_px, CPU)
    nearest = -np.sort(-(first @ gallery.T), axis=1)[:, :NEAREST]
    return stage.scale(gate_features(sketches, nearest, tolerance))


@torch.no_grad()
def _steps(stage: SelectorStage, policy: GruPolicy, sketches: list[Sketch]) -> dict[str, np.ndarray]:
    """Points and the states in which the GRU meets them, evenly spread over every drawing: (n, 5) and (n, H)."""
    settings = stage.settings
    points, states = [], []
    for sketch in sketches:
        tuples = torch.from_numpy(five_tuples(simplify(sketch, settings.tolerance), settings.points))[None]
        count = int(sequence_steps(tuples.numpy())[0])
        wanted = set(np.linspace(0, count - 1, STEPS_PER_SKETCH).round().astype(int).tolist())
        state = torch.zeros(1, policy.step.hidden)
        for index in range(count):
            if index in wanted:
                points.append(tuples[:, index])
                states.append(state)
            state, _ = policy.step(tuples[:, index], state)
    return {"point": torch.cat(points).numpy(), "state": torch.cat(states).numpy()}
