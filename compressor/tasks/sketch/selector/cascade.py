"""The cascade's stage: nothing is trained, the thresholds of its doubt are searched for the same reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from compressor.stage import OptimizerSpec
from compressor.tasks.sketch.selector.config import SelectorConfig
from compressor.tasks.sketch.selector.glue import certainty
from compressor.tasks.sketch.selector.rewards import Outcomes
from compressor.tasks.sketch.selector.stage import SelectorStage

if TYPE_CHECKING:
    from compressor.tasks.sketch.task import Task
    from compressor.train import Trainer

QUANTILES = 24  # of the certainty, among which thresholds are searched
ROUNDS = 3


class CascadeStage(SelectorStage):
    """Nothing is trained: the thresholds of the doubt are those with the largest mean reward."""

    def __init__(self, task: Task, settings: SelectorConfig | None = None) -> None:
        super().__init__(task, settings)
        self.steps = 0
        self.thresholds: list[float] = []

    def modules(self) -> dict[str, nn.Module]:
        return {}

    def optimizers(self) -> list[OptimizerSpec]:
        return []

    def run(self, trainer: Trainer) -> None:
        self.start(trainer.context)
        self.search()

    def fit_outside_a_run(self, outcomes: Outcomes, like: SelectorStage | None = None) -> None:
        self.samples = self.make_samples(outcomes, like)
        self.search()

    def search(self) -> None:
        """Set the thresholds from the samples."""
        assert self.samples is not None
        self.thresholds = search_thresholds(self._certainty(self.samples.outcomes), self.samples.rewards)

    def _inputs(self, outcomes: Outcomes) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        return (), np.zeros(len(outcomes.views))

    def choose(self, outcomes: Outcomes) -> np.ndarray:
        return cascade_choices(self._certainty(outcomes), self.thresholds)

    def _certainty(self, outcomes: Outcomes) -> np.ndarray:
        """(N, K - 1): how sure the look on each canvas but the last was."""
        nearest = outcomes.nearest
        return np.stack([certainty(nearest[:, k], self.settings.measure) for k in range(nearest.shape[1] - 1)], axis=1)

    def choices(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.samples is not None
        samples = self.samples
        levels = self._certainty(samples.outcomes)
        unseen = np.zeros(len(levels), np.int64)
        for fold in range(self.settings.folds):
            held = samples.fold == fold
            if held.any() and not held.all():
                unseen[held] = cascade_choices(levels[held], search_thresholds(levels[~held], samples.rewards[~held]))
        return unseen, cascade_choices(levels, self.thresholds)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "thresholds": self.thresholds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.thresholds = list(state["thresholds"])

    def settings_for_glue(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "kind": "cascade",
            "canvases": list(self.canvases),
            "thresholds": list(self.thresholds),
            "measure": settings.measure,
            "combine": settings.combined,
        }


def cascade_choices(levels: np.ndarray, thresholds: list[float]) -> np.ndarray:
    """(N,): the first canvas whose certainty (N, K - 1) reaches its threshold, else the last one."""
    sure = levels >= np.asarray(thresholds)
    return np.where(sure.any(1), sure.argmax(1), levels.shape[1])


def search_thresholds(levels: np.ndarray, rewards: np.ndarray) -> list[float]:
    """Thresholds (K - 1) of the certainty (N, K - 1) with the largest mean of rewards (N, K): one after the other over
    its quantiles, the others as they are, a few times round. Of equals the smallest, which looks less."""
    count = levels.shape[1]
    grids = [
        np.concatenate([[-np.inf], np.quantile(levels[:, k], np.linspace(0, 1, QUANTILES)), [np.inf]])
        for k in range(count)
    ]
    thresholds = [np.inf] * count  # every canvas is reached at first, so the last threshold has something to decide
    rows = np.arange(len(levels))
    for _ in range(ROUNDS):
        for k in reversed(range(count)):
            earned = [
                rewards[rows, cascade_choices(levels, [*thresholds[:k], value, *thresholds[k + 1 :]])].mean()
                for value in grids[k]
            ]
            thresholds[k] = float(grids[k][int(np.argmax(earned))])
    # Beyond what was seen; JSON has no infinity.
    return [float(np.clip(value, -1e9, 1e9)) for value in thresholds]


def selector_stage(task: Task, settings: SelectorConfig | None = None) -> SelectorStage | None:
    """The stage that the recipe's `selector.kind` asks for, or that of other settings; None for "fixed"."""
    kind = (settings or task.config.selector).kind
    if kind == "fixed":
        return None
    return CascadeStage(task, settings) if kind == "cascade" else SelectorStage(task, settings)
