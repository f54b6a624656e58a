"""The four small networks know their tasks, so that what int8 costs them means something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from targets.bundle import Bundle
from targets.model import ModelGlue
from targets.student import load
from tests.targets import small_nets


@pytest.mark.parametrize("name", small_nets.TASKS)
def test_a_small_network_has_learned_its_task(small_bundle: Callable[[str], Bundle], name: str) -> None:
    evaluation = load(small_bundle(name).path).evaluate("test")
    assert evaluation.name == "top1" and evaluation.value >= 0.9


def test_the_cell_repeats_a_whole_gesture_when_it_is_called_step_by_step(small_bundle: Callable[[str], Bundle]) -> None:
    """The exported graph is one step; looped on the host it answers as well as it was trained to."""
    session = load(small_bundle("gru").path).sessions["gru"]
    sequences, truth = small_nets.gestures(48, seed=5)
    state = np.zeros((48, small_nets.GESTURE_HIDDEN), np.float32)
    for time in range(small_nets.GESTURE_SAMPLES):
        outputs = session({"sample": sequences[:, time], "state": state})
        state = outputs["following"]
    assert (outputs["logits"].argmax(1) == truth).mean() >= 0.9


def test_a_metric_is_computed_on_the_output_that_the_bundle_names(tmp_path) -> None:
    def graph(feeds):
        return {"state": np.zeros((2, 3)), "logits": np.array([[0, 1.0], [1, 0]])}

    arrays = {"inputs/x": np.zeros((2, 1)), "targets": np.array([1, 0])}
    values = {
        output: ModelGlue({"g": graph}, {"graph": "g", "metric": "top1", "output": output}, tmp_path)
        .evaluate(arrays)
        .value
        for output in ("logits", None)
    }
    assert values == {"logits": 1.0, None: 0.5}
