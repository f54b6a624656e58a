"""Confidence intervals: bootstrap over items, Student's t, means of correlated series. numpy only."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_CHUNK_ELEMENTS = 4_000_000  # index elements per block of resamples: 32 MB


class Difference(NamedTuple):
    """a - b, and its interval."""

    difference: float
    ci95: tuple[float, float]


def weighted_mean(scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """sum(weights * scores) / sum(weights); the plain mean without weights.

    A ratio of sums (a word error rate, say) has one score per item, errors / words, and the words as weights.
    """
    scores, weights = _checked(scores, weights)
    return float(scores @ weights / weights.sum())


def bootstrap_interval(
    scores: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `weighted_mean(scores, weights)` over items (Efron 1979).

    scores, weights: (n,), one per item; items are drawn with replacement, each with its weight.
    Scores that are all 0 or all 1 get the exact one-sided bound of a proportion (Clopper and Pearson 1934)
    where the bootstrap would say that there is no uncertainty at all.
    Raises ValueError for no items, unequal lengths, values that are not finite, negative or all-zero weights.
    """
    plain = weights is None
    scores, weights = _checked(scores, weights)
    if plain and scores.min() == scores.max() and scores[0] in (0.0, 1.0):
        tail = ((1 - confidence) / 2) ** (1 / scores.size)
        return (0.0, 1 - tail) if scores[0] == 0 else (tail, 1.0)
    means = _resampled_means(scores, weights, resamples, seed)
    return _percentiles(means, confidence)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The difference of two weighted means over the same items, a - b, with its percentile bootstrap interval.

    a, b, weights: (n,), item by item the same. Raises ValueError as `bootstrap_interval` does.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired scores have different shapes: {a.shape} and {b.shape}")
    scores, weights = _checked(a - b, weights)
    means = _resampled_means(scores, weights, resamples, seed)
    return Difference(float(scores @ weights / weights.sum()), _percentiles(means, confidence))


def paired_ratio(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """mean(a) / mean(b) over the same items, with its percentile bootstrap interval: what part of b is kept.

    a, b: (n,), item by item the same. Raises ValueError as `paired_bootstrap` does, and where the mean of b is zero.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired scores have different shapes: {a.shape} and {b.shape}")
    (a, ones), (b, _) = _checked(a, None), _checked(b, None)
    if b.mean() == 0:
        raise ValueError("no ratio to scores whose mean is zero")
    above, below = (_resampled_means(own, ones, resamples, seed) for own in (a, b))  # the same draws
    known = below != 0
    return float(a.mean() / b.mean()), _percentiles(above[known] / below[known], confidence)


def student_t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun 26.7.5 (0.2 % off)."""
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        x = 2 * probability - 1
        return x * math.sqrt(2 / (1 - x * x))
    z = NormalDist().inv_cdf(probability)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3 + g4 / degrees**4


def mean_interval(series: ArrayLike, confidence: float = 0.95, min_batches: int = 12) -> tuple[float, float]:
    """Interval of the mean of a series whose neighbours may be correlated, by batch means (Law and Carson 1979).

    series: (n,), in the order of measurement. The series is cut into batches, which are doubled until the means of
    neighbouring batches look independent or only `min_batches` are left; Student's t over the batch means
    gives the interval.
    One value alone has no interval: ValueError.
    """
    x = np.asarray(series, np.float64)
    if x.ndim != 1 or x.size < 2 or not np.isfinite(x).all():
        raise ValueError("an interval of a mean needs a one-dimensional series of at least two finite values")
    means, size = x, 1
    while _lag1(means) > 1 / math.sqrt(means.size) and x.size // (2 * size) >= min_batches:
        size *= 2
        count = x.size // size
        # The rest that does not fill a batch is the oldest part of the series.
        means = x[x.size - count * size :].reshape(count, size).mean(axis=1)
    half = student_t_quantile((1 + confidence) / 2, means.size - 1) * means.std(ddof=1) / math.sqrt(means.size)
    center = float(x.mean())
    return center - float(half), center + float(half)


def _lag1(series: np.ndarray) -> float:
    """Correlation of a series with itself one step later."""
    centered = series - series.mean()
    power = float(centered @ centered)
    return float(centered[:-1] @ centered[1:]) / power if power > 0 else 0.0


def _checked(scores: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(scores, np.float64)
    weights = np.ones_like(scores) if weights is None else np.asarray(weights, np.float64)
    if scores.ndim != 1 or scores.size == 0 or weights.shape != scores.shape:
        raise ValueError(f"scores and weights must be (n,) with n > 0, not {scores.shape} and {weights.shape}")
    if not (np.isfinite(scores).all() and np.isfinite(weights).all()):
        raise ValueError("scores and weights must be finite")
    if (weights < 0).any() or weights.sum() == 0:
        raise ValueError("weights must not be negative, nor all zero")
    return scores, weights


def _resampled_means(scores: np.ndarray, weights: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Weighted means of `resamples` draws with replacement: (resamples,)."""
    rng = np.random.default_rng(seed)
    weighted, n = scores * weights, scores.size
    rows = max(1, _CHUNK_ELEMENTS // n)
    blocks = []
    for start in range(0, resamples, rows):
        index = rng.integers(0, n, size=(min(rows, resamples - start), n), dtype=np.int64)
        total = weights[index].sum(axis=1)
        # A draw of items that weigh nothing has no mean; it says nothing about the interval.
        blocks.append(np.divide(weighted[index].sum(axis=1), total, out=np.full_like(total, np.nan), where=total > 0))
    means = np.concatenate(blocks)
    return means[~np.isnan(means)]


def _percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
