"""The selector's Pareto front: what lambda_F from accurate to cheap gives, on drawings that no policy has learned from.

Choices are cross-fitted: each drawing's are those of a policy that was trained without its part of the data. Drawings
are those of the validation part, and their variations; each drawing is one item, so intervals are over drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.tasks.sketch.charts import ALWAYS, CHOOSING, FIXED, front_chart
from compressor.tasks.sketch.selector.analysis import Gain, gain_over_hull
from compressor.tasks.sketch.selector.cascade import selector_stage
from compressor.tasks.sketch.selector.config import SelectorConfig, selector_canvases
from compressor.tasks.sketch.selector.rewards import Outcomes, by_drawing
from compressor.tasks.sketch.selector.stage import Samples, SelectorStage
from profiles.statistics import bootstrap_interval
from targets.glue import Point, Scatter

if TYPE_CHECKING:
    from compressor.tasks.sketch.task import Task

LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class FrontPoint:
    """One way of choosing canvases: mean MACs, acc@1 with its interval, n drawings; for a selector what it gains over
    fixed canvases, and over always taking the same looks (None where it is cheaper than all of them), and its shares.
    """

    name: str
    group: str
    macs: float
    value: float
    ci95: tuple[float, float]
    n: int
    lambda_F: float | None = None
    over_fixed: Gain | None = None
    over_paths: Gain | None = None
    shares: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Front:
    """Fixed canvases, constant looks and the selector at every lambda_F; right, macs (drawings, K): the fixed ones'."""

    kind: str
    canvases: tuple[int, ...]
    points: list[FrontPoint]
    right: np.ndarray
    macs: np.ndarray

    def chart(self) -> Scatter:
        """For the report."""
        points = [
            Point(
                label=point.name,
                x=point.macs,
                y=point.value,
                ci95=point.ci95,
                group=point.group,
                detail=_in_words(point.over_fixed) if point.over_fixed else "",
            )
            for point in self.points
        ]
        said = "Selectors are cross-fitted on the validation part's drawings and variations of them, one per lambda_F."
        return front_chart(len(self.right), points, self.right, self.macs, said, f"Selector {self.kind}, by lambda_F")


def _in_words(gain: Gain) -> str:
    return f"{gain.gain:+.3f} [{gain.ci95[0]:+.3f}, {gain.ci95[1]:+.3f}] over the line"


def sweep(
    task: Task,
    settings: SelectorConfig,
    found: Outcomes,
    lambdas: Sequence[float] = LAMBDAS,
    like: SelectorStage | None = None,
) -> Front:
    """Learn once for every lambda_F, from samples that were collected for these settings' kind.

    `like`: a stage that has counted already what they cost.
    """
    points: list[FrontPoint] = []
    canvases = selector_canvases(settings, task.config.deploy.canvases)
    right = macs = np.zeros((0, 0))
    for value in lambdas:
        stage = selector_stage(task, settings.model_copy(update={"lambda_F": value}))
        assert stage is not None  # a fixed canvas has no lambda_F
        stage.fit_outside_a_run(found, like)
        like = like or stage
        samples = stage.samples
        assert samples is not None
        if not points:
            right, macs = _own(samples, (samples.outcomes.alone == 1).astype(float)), _own(samples, samples.fixed_macs)
            points = _constant(samples, settings, canvases, right, macs)
        points.append(_chosen(samples, stage.choices()[0], value, right, macs))
    return Front(settings.kind, canvases, points, right, macs)


def _own(samples: Samples, values: np.ndarray) -> np.ndarray:
    """Means by drawing of the deployed student's samples."""
    own = samples.outcomes.own
    return by_drawing(samples.outcomes.labels[own], values[own])


def _constant(
    samples: Samples, settings: SelectorConfig, canvases: tuple[int, ...], right: np.ndarray, macs: np.ndarray
) -> list[FrontPoint]:
    """Every canvas alone and, of selectors that look twice, the same looks for every drawing."""
    points = [_point(f"{px} px", FIXED, right[:, k], macs[:, k]) for k, px in enumerate(canvases)]
    if settings.kind in ("gate", "cascade"):
        always, spent = _own(samples, samples.outcomes.correct), _own(samples, samples.macs)
        first = "" if settings.kind == "gate" else "up to "
        names = [f"{canvases[0]} + {px} px" if not first else f"{first}{px} px" for px in canvases]
        points += [_point(f"{names[k]}, always", ALWAYS, always[:, k], spent[:, k]) for k in range(1, len(canvases))]
    return points


def _point(name: str, group: str, right: np.ndarray, macs: np.ndarray, **more: Any) -> FrontPoint:
    return FrontPoint(
        name, group, float(macs.mean()), float(right.mean()), bootstrap_interval(right), len(right), **more
    )


def _chosen(
    samples: Samples, choices: np.ndarray, lambda_F: float, fixed: np.ndarray, fixed_macs: np.ndarray
) -> FrontPoint:
    rows = np.arange(len(choices))
    outcomes = samples.outcomes
    answered = _own(samples, outcomes.correct[rows, choices])
    spent = _own(samples, samples.macs[rows, choices])
    paths = np.concatenate([fixed, _own(samples, outcomes.correct)], axis=1)
    path_macs = np.concatenate([fixed_macs, _own(samples, samples.macs)], axis=1)
    comparable = spent.mean() >= fixed_macs.mean(0).min()
    own = choices[outcomes.own]
    return _point(
        f"lambda_F {lambda_F:g}",
        CHOOSING,
        answered,
        spent,
        lambda_F=lambda_F,
        over_fixed=gain_over_hull(answered, spent, fixed, fixed_macs) if comparable else None,
        over_paths=gain_over_hull(answered, spent, paths, path_macs) if comparable else None,
        shares=tuple(float((own == index).mean()) for index in range(fixed.shape[1])),
    )
