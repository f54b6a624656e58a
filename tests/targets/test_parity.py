from __future__ import annotations

import numpy as np
import pytest

from targets.parity import SQNR_CEILING_DB, compare, failure, passes, sqnr_db


def one(reference: object, outputs: object, **more: object):  # type: ignore[no-untyped-def]
    return compare({"y": np.asarray(reference)}, {"y": np.asarray(outputs)}, **more)


def test_fp32_limit_is_relative_above_one_and_absolute_below() -> None:
    assert passes(one([[1000.0, 0.1]], [[1000.0 + 0.09, 0.1]]), "fp32")  # 9e-5 of 1000
    assert not passes(one([[1000.0, 0.1]], [[1000.0, 0.1 + 2e-4]]), "fp32")  # a large neighbour excuses nothing
    assert passes(one([[0.001]], [[0.00109]]), "fp32")


def test_sqnr_of_uniform_quantisation_follows_the_six_db_per_bit_law() -> None:
    """A full-scale sine in b bits has 6.02 b + 1.76 dB (Bennett 1948)."""
    signal = np.sin(np.linspace(0, 40 * np.pi, 100_001))
    for bits in (4, 8):
        step = 2 / 2**bits
        assert sqnr_db(signal, np.round(signal / step) * step) == pytest.approx(6.02 * bits + 1.76, abs=0.6)


def test_int8_needs_twenty_decibels() -> None:
    reference = np.full((4, 100), 1.0)
    assert passes(one(reference, reference + 0.099), "int8")
    reason = failure(one(reference, reference + 0.101), "int8")
    assert reason is not None and "19.9 dB" in reason


def test_fp16_needs_a_cosine_and_finite_outputs() -> None:
    assert passes(one([[1.0, 0.0]], [[1.0, 0.04]]), "fp16")
    assert not passes(one([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.06]]), "fp16")  # the worst sample decides
    overflowed = one([[1.0, 7e4]], [[1.0, np.inf]])
    assert not overflowed.finite and not passes(overflowed, "fp16")
    assert not passes(one([[1.0]], [[np.nan]]), "fp32")


def test_an_infinity_that_the_reference_has_is_no_overflow() -> None:
    assert passes(one([[-np.inf, 1.0]], [[-np.inf, 1.0]]), "fp32")


def test_the_worst_of_several_outputs_decides() -> None:
    reference = {"a": np.ones((2, 3)), "b": np.ones((2, 3))}
    parity = compare(reference, {"a": np.ones((2, 3)), "b": np.ones((2, 3)) * 1.5})
    assert parity.max_abs == 0.5 and parity.sqnr_db == pytest.approx(6.02, abs=0.01)


def test_identical_outputs_have_a_finite_number_that_json_can_hold() -> None:
    assert one([[1.0, 2.0]], [[1.0, 2.0]]).sqnr_db == SQNR_CEILING_DB


def test_agreement_counts_equal_answers() -> None:
    assert one([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.9]]).agreement == 0.5
    reference = np.eye(4) + 0.1 * np.ones((4, 4))
    assert one(reference, reference, agreement="nearest").agreement == 1.0


def test_a_missing_or_misshaped_output_is_an_error_not_a_number() -> None:
    with pytest.raises(ValueError, match="missing"):
        compare({"y": np.ones((1, 2))}, {"z": np.ones((1, 2))})
    with pytest.raises(ValueError, match="shape"):
        one(np.ones((1, 2)), np.ones((2, 2)))
