"""Intervals against closed forms and by their coverage on simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from profiles.statistics import (
    bootstrap_interval,
    mean_interval,
    paired_bootstrap,
    paired_ratio,
    student_t_quantile,
    weighted_mean,
)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    scores = np.random.default_rng(1).normal(3, 2, 2000)
    low, high = bootstrap_interval(scores)
    half = 1.96 * scores.std() / math.sqrt(scores.size)
    assert low == pytest.approx(scores.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.05 * half)


def test_bootstrap_of_a_proportion_is_the_binomial_interval():
    scores = np.r_[np.ones(300), np.zeros(700)]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert bootstrap_interval(scores) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_bootstrap_of_a_ratio_of_sums_is_the_delta_method():
    """errors / words over sentences: variance of the ratio mean((e - R w)^2) / (n mean(w)^2) (Cochran 1977, 2.11)."""
    rng = np.random.default_rng(2)
    words = rng.integers(3, 30, 1500).astype(float)
    errors = rng.binomial(words.astype(int), 0.2)
    ratio = errors.sum() / words.sum()
    half = 1.96 * math.sqrt(np.mean((errors - ratio * words) ** 2) / words.size) / words.mean()
    assert weighted_mean(errors / words, words) == pytest.approx(ratio)
    assert bootstrap_interval(errors / words, words) == pytest.approx((ratio - half, ratio + half), abs=0.08 * half)


def test_a_wider_confidence_is_a_wider_interval_and_a_seed_repeats():
    scores = np.random.default_rng(3).random(100)
    low90, high90 = bootstrap_interval(scores, confidence=0.9)
    low99, high99 = bootstrap_interval(scores, confidence=0.99)
    assert low99 < low90 < high90 < high99
    assert bootstrap_interval(scores, seed=7) == bootstrap_interval(scores, seed=7)
    assert bootstrap_interval(scores, seed=7) != bootstrap_interval(scores, seed=8)


def test_ten_right_out_of_ten_do_not_have_an_interval_without_width():
    """Clopper and Pearson for 10 of 10: the lower bound is .025 ** (1 / 10) = .6915."""
    assert bootstrap_interval(np.ones(10)) == pytest.approx((0.6915, 1.0), abs=1e-4)
    assert bootstrap_interval(np.zeros(10)) == pytest.approx((0.0, 0.3085), abs=1e-4)


def test_many_items_are_resampled_in_blocks_of_bounded_memory():
    scores = np.random.default_rng(4).random(50_000)
    low, high = bootstrap_interval(scores, resamples=200)
    assert low < scores.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / math.sqrt(scores.size), rel=0.25)


def test_pairing_finds_what_two_separate_intervals_hide():
    """The same items, b worse by .02 on each: the items differ by far more than a and b do."""
    rng = np.random.default_rng(5)
    a = rng.random(400)
    b = a - 0.02 + rng.normal(0, 0.01, 400)
    difference, (low, high) = paired_bootstrap(a, b)
    assert difference == pytest.approx((a - b).mean())
    assert 0.018 < low < high < 0.022
    assert bootstrap_interval(a)[0] < bootstrap_interval(b)[1]


def test_a_paired_ratio_covers_what_is_kept_and_is_exact_for_a_multiple():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        b = (rng.random(400) < 0.6).astype(float)
        a = b * (rng.random(400) < 0.9)  # nine in ten of what b has
        ratio, (low, high) = paired_ratio(a, b, resamples=400, seed=trial)
        assert ratio == pytest.approx(a.sum() / b.sum())
        covered += low <= 0.9 <= high
    assert covered >= 180
    assert paired_ratio(0.5 * b, b) == (0.5, (0.5, 0.5))
    with pytest.raises(ValueError, match="mean is zero"):
        paired_ratio(b, np.zeros(400))


def test_a_paired_bootstrap_of_equal_scores_is_zero():
    scores = np.random.default_rng(6).random(50)
    assert paired_bootstrap(scores, scores) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("scores", "weights", "message"),
    [
        ([], None, "n > 0"),
        ([[1.0]], None, "n > 0"),
        ([1.0, 2.0], [1.0], "n > 0"),
        ([1.0, math.nan], None, "finite"),
        ([1.0, 2.0], [1.0, -1.0], "negative"),
        ([1.0, 2.0], [0.0, 0.0], "all zero"),
    ],
)
def test_scores_that_mean_nothing_are_refused(scores, weights, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(scores, weights)


def test_paired_scores_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        paired_bootstrap([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (11, 2.20099), (30, 2.04227), (1e6, 1.95996)],
)
def test_students_t_agrees_with_the_printed_tables(degrees, quantile):
    assert student_t_quantile(0.975, degrees) == pytest.approx(quantile, rel=2e-3)


def test_the_interval_of_few_independent_values_is_students():
    series = [1.0, 2.0, 3.0, 4.0]
    half = 3.18245 * np.std(series, ddof=1) / 2
    assert mean_interval(series) == pytest.approx((2.5 - half, 2.5 + half), abs=2e-3 * half)


def _coverage(draw, truth: float, repetitions: int = 400) -> float:
    rng = np.random.default_rng(0)
    intervals = (mean_interval(draw(rng)) for _ in range(repetitions))
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def test_intervals_of_the_mean_cover_it_for_independent_and_for_skewed_samples():
    assert _coverage(lambda rng: rng.normal(5, 1, 200), 5) == pytest.approx(0.95, abs=0.03)
    # Bimodal: nine calls at 1 ms, one at 3 ms.
    assert _coverage(lambda rng: rng.choice([1.0, 3.0], 300, p=[0.9, 0.1]), 1.2) == pytest.approx(0.95, abs=0.035)
    assert _coverage(lambda rng: rng.lognormal(0, 0.5, 300), math.exp(0.125)) == pytest.approx(0.95, abs=0.04)


def _autoregressive(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    noise = rng.normal(0, 1, n + 50)
    series = np.empty(n + 50)
    series[0] = noise[0]
    for index in range(1, n + 50):
        series[index] = phi * series[index - 1] + noise[index]
    return series[50:]


def test_intervals_of_the_mean_cover_it_when_neighbours_are_correlated():
    """AR(1) with phi .7: the interval that takes the samples as independent covers the mean in about 60 % of cases."""

    def naive(series):
        half = 1.96 * series.std(ddof=1) / math.sqrt(series.size)
        return series.mean() - half <= 0 <= series.mean() + half

    rng = np.random.default_rng(0)
    assert np.mean([naive(_autoregressive(rng, 500, 0.7)) for _ in range(200)]) < 0.75
    assert _coverage(lambda rng: _autoregressive(rng, 500, 0.7), 0, 250) > 0.90


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="two finite values"):
        mean_interval([1.0])
