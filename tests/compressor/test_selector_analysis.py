"""The line through the fixed canvases, gains above it and oracles, by closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.tasks.sketch.selector.analysis import gain_over_hull, hull, oracle_gain


def test_the_hull_leaves_out_what_a_mixture_beats() -> None:
    line = hull([4, 1, 2, 3, 5], [0.8, 0.2, 0.3, 0.7, 0.6])
    assert line.canvases == (1, 3, 0)  # 2 lies below the line from 1 to 3, and 5 costs more than 4 for less
    assert line.value(1) == 0.2 and line.value(2) == pytest.approx(0.45) and line.value(3.5) == pytest.approx(0.75)
    assert line.value(9) == 0.8 and np.isnan(line.value(0.5))
    assert line.mixture(2) == (1, 3, pytest.approx(0.5)) and line.mixture(9) == (0, 0, 1.0)
    assert line.mixture(1) == (1, 1, 1.0)


def test_of_two_canvases_that_cost_the_same_the_better_is_on_the_hull() -> None:
    assert hull([1, 1, 2], [0.1, 0.3, 0.3]).canvases == (1,)


@pytest.fixture
def halves() -> tuple[np.ndarray, np.ndarray]:
    """Half of 400 queries need the large canvas (cost 3), half are right on the small one (cost 1) as well."""
    correct = np.zeros((400, 2))
    correct[:, 1] = 1
    correct[:200, 0] = 1
    return correct, np.array([1.0, 3.0])


def test_a_perfect_selector_gains_what_the_line_says(halves: tuple[np.ndarray, np.ndarray]) -> None:
    """It costs 2 and is always right; the mixture at 2 is right in three of four."""
    correct, macs = halves
    choice = np.arange(400) >= 200
    gain = gain_over_hull(np.ones(400), macs[choice.astype(int)], correct, macs)
    assert gain.value == 1 and gain.macs == 2 and gain.fixed_value == pytest.approx(0.75)
    assert gain.mixture == (0, 1, pytest.approx(0.5)) and gain.gain == pytest.approx(0.25)
    assert 0.24 < gain.ci95[0] <= gain.ci95[1] <= 0.25 + 1e-9  # p (1 - p) in a resample of which p are easy


def test_a_coin_gains_nothing_and_its_interval_says_so(halves: tuple[np.ndarray, np.ndarray]) -> None:
    correct, macs = halves
    coin = np.random.default_rng(1).integers(0, 2, (30, 400))
    ours = np.stack([correct[np.arange(400), row] for row in coin])
    gain = gain_over_hull(ours, macs[coin], np.stack([correct] * 30), macs)
    assert gain.ci95[0] < 0 < gain.ci95[1] and abs(gain.gain) < 0.02


def test_a_policy_cheaper_than_every_canvas_has_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="less than any fixed canvas"):
        gain_over_hull(np.ones(4), np.full(4, 0.5), np.ones((4, 2)), [1.0, 2.0])


def test_an_oracle_of_pure_luck_gains_only_with_its_selection_noise() -> None:
    """Two canvases, each right with probability 1/2 by a coin of its own, at the same cost: choosing the right one
    of two coins on the seed itself gives 3/4; on another seed 1/2."""
    scores = np.random.default_rng(0).integers(0, 2, (4, 5000, 2)).astype(float)
    costs = [1.0, 1.0 + 1e-9]
    noisy = oracle_gain(scores, costs, price=0.0, selection_noise=True)
    assert noisy.gain == pytest.approx(0.25, abs=0.02)
    honest = oracle_gain(scores, costs, price=0.0)
    assert honest.gain == pytest.approx(0, abs=0.01) and honest.ci95[0] < 0 < honest.ci95[1]


def test_an_oracle_keeps_what_is_true_of_the_sketch() -> None:
    """Half of the sketches are right on one canvas only, in every seed; the others on the other one only."""
    truth = np.zeros((1000, 2))
    truth[:500, 0] = truth[500:, 1] = 1
    gain = oracle_gain(np.stack([truth] * 3), [1.0, 1.0 + 1e-9], price=0.0)
    assert gain.value == 1 and gain.gain == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two seeds"):
        oracle_gain(truth[None], [1.0, 2.0], price=0.0)
