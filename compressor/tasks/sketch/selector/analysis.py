"""Is a canvas selector worth its name? The line through the fixed canvases, gains above it, what an oracle could gain.

Arrays: `correct` is 1 or 0 (or a mean over seeds) per query and canvas, `macs` is (canvases,), or (queries, canvases)
where the cost depends on the sketch. numpy only; pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Hull:
    """The upper concave hull of (cost, value): what fixed canvases and random mixtures of two of them reach.

    canvases: indices of the points on it, cheapest first. macs, values: theirs.
    """

    canvases: tuple[int, ...]
    macs: np.ndarray
    values: np.ndarray

    def value(self, macs: float) -> float:
        """The best value for at most `macs` per query on average; NaN if that is less than the cheapest canvas."""
        if macs < self.macs[0]:
            return float("nan")
        return float(np.interp(macs, self.macs, self.values))

    def mixture(self, macs: float) -> tuple[int, int, float]:
        """The two canvases whose mixture costs `macs`, and the share of the second; the dearest alone beyond it."""
        upper = int(np.searchsorted(self.macs, macs, side="left"))
        if upper >= len(self.canvases):
            return self.canvases[-1], self.canvases[-1], 1.0
        lower = max(upper - 1, 0)
        width = self.macs[upper] - self.macs[lower]
        share = float((macs - self.macs[lower]) / width) if width > 0 else 1.0
        return self.canvases[lower], self.canvases[upper], share


def hull(macs: ArrayLike, values: ArrayLike) -> Hull:
    """The hull of (canvases,) costs and values. What costs more and is no better is not on it."""
    macs, values = np.asarray(macs, np.float64), np.asarray(values, np.float64)
    if macs.ndim != 1 or macs.shape != values.shape or not len(macs):
        raise ValueError(f"one cost and one value per canvas are expected, not {macs.shape} and {values.shape}")
    chosen: list[int] = []
    for index in np.lexsort((-values, macs)).tolist():
        if chosen and values[index] <= values[chosen[-1]]:
            continue
        while len(chosen) > 1 and _rise(macs, values, chosen[-2], chosen[-1]) <= _rise(macs, values, chosen[-1], index):
            chosen.pop()
        chosen.append(index)
    return Hull(tuple(chosen), macs[chosen], values[chosen])


def _rise(macs: np.ndarray, values: np.ndarray, first: int, second: int) -> float:
    run = macs[second] - macs[first]
    return float((values[second] - values[first]) / run) if run > 0 else np.inf


@dataclass(frozen=True)
class Gain:
    """A policy against the best mixture of fixed canvases of the same mean cost.

    value, macs: the policy's means. fixed_value: the mixture's; it draws canvas `mixture[1]` with probability
    `mixture[2]`, else `mixture[0]`. gain: the difference, with its 95 % interval.
    """

    value: float
    macs: float
    fixed_value: float
    mixture: tuple[int, int, float]
    gain: float
    ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "mixture": list(self.mixture), "ci95": list(self.ci95)}


def gain_over_hull(
    correct: ArrayLike,
    macs: ArrayLike,
    fixed_correct: ArrayLike,
    fixed_macs: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Gain:
    """A policy's accuracy minus that of the best mixture of fixed canvases at its mean cost.

    correct, macs: (queries,) or (seeds, queries), the policy's answers and what each cost, everything counted.
    fixed_correct: (queries, canvases) or (seeds, queries, canvases); fixed_macs: (canvases,) or (queries, canvases).
    The interval is a paired percentile bootstrap over queries (a query keeps all of its seeds). The mixture's two
    canvases are those of the whole sample; its share is solved anew in every resample, for that resample's mean cost.
    Raises ValueError where the policy is cheaper than every fixed canvas (nothing to compare with), or on shapes.
    """
    ours, spent = _over_seeds(correct, 1), _over_seeds(macs, 1)
    theirs = _over_seeds(fixed_correct, 2)
    costs = _costs(fixed_macs, theirs.shape)
    if ours.shape != spent.shape or ours.shape != theirs.shape[:1]:
        raise ValueError(f"shapes do not fit: {ours.shape}, {spent.shape}, {theirs.shape}")
    line = hull(costs.mean(0), theirs.mean(0))
    mean_macs = float(spent.mean())
    if mean_macs < line.macs[0] * (1 - 1e-9):
        raise ValueError(f"{mean_macs:.0f} MACs per query are less than any fixed canvas costs ({line.macs[0]:.0f})")
    first, second, share = line.mixture(mean_macs)
    fixed_value = (1 - share) * theirs[:, first].mean() + share * theirs[:, second].mean()
    rng = np.random.default_rng(seed)
    gains = np.empty(resamples)
    for draw in range(resamples):
        rows = rng.integers(0, len(ours), len(ours))
        low, high = costs[rows, first].mean(), costs[rows, second].mean()
        weight = float(np.clip((spent[rows].mean() - low) / (high - low), 0, 1)) if high > low else share
        mixed = (1 - weight) * theirs[rows, first].mean() + weight * theirs[rows, second].mean()
        gains[draw] = ours[rows].mean() - mixed
    low, high = np.quantile(gains, [0.025, 0.975])
    value = float(ours.mean())
    return Gain(
        value,
        mean_macs,
        float(fixed_value),
        (first, second, share),
        value - float(fixed_value),
        (float(low), float(high)),
    )


def oracle_gain(scores: ArrayLike, macs: ArrayLike, price: float, *, selection_noise: bool = False) -> Gain:
    """What choosing each query's best canvas would gain over the fixed ones, at a price in value per MAC.

    scores: (seeds, queries, canvases); macs: (canvases,) or (queries, canvases). The oracle takes the canvas with the
    largest score - price x MACs (of equals the cheapest) on one seed and is scored on every other one, so it gains
    only from what is true of the sketch and not from one network's luck. `selection_noise` lets it be scored on the
    seed that it chose on: the number that such studies often show. Raises ValueError for one seed without it.
    """
    scores = np.asarray(scores, np.float64)
    seeds = len(scores)
    if scores.ndim != 3 or (seeds < 2 and not selection_noise):
        raise ValueError(f"scores must be (seeds, queries, canvases) of at least two seeds, not {scores.shape}")
    costs = _costs(macs, scores.shape[1:])
    rows = np.arange(scores.shape[1])
    values, spent, fixed = [], [], []
    for chosen_on in range(seeds):
        worth = scores[chosen_on] - price * costs
        best = worth >= worth.max(1, keepdims=True) - 1e-12
        choice = np.where(best, costs, np.inf).argmin(1)
        others = [chosen_on] if selection_noise else [seed for seed in range(seeds) if seed != chosen_on]
        values += [scores[seed, rows, choice] for seed in others]
        spent += [costs[rows, choice]] * len(others)
        fixed += [scores[seed] for seed in others]
    return gain_over_hull(np.stack(values), np.stack(spent), np.stack(fixed), costs)


def _over_seeds(array: ArrayLike, dimensions: int) -> np.ndarray:
    values = np.asarray(array, np.float64)
    if values.ndim == dimensions + 1:
        return values.mean(0)
    if values.ndim != dimensions:
        raise ValueError(f"an array of {dimensions} axes, or with a leading one for seeds, is expected: {values.shape}")
    return values


def _costs(macs: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(macs, np.float64), shape)
