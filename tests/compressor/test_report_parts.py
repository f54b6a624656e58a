"""What the report's parts say of numbers: findings, words, figures, pictures."""

from __future__ import annotations

import base64
import doctest
import io
import math

import numpy as np
import pytest

from compressor.report import details as details_module
from compressor.report import figures, view, words
from compressor.report.pictures import encode_png, shown_examples
from compressor.report.tables import training_series
from tests.compressor.report_fixture import latency, metric, record, rows


def test_int8_slower_than_fp32_is_called_out_with_its_certainty():
    slow = record(precision_requested="int8", latency_ms=latency(0.61, 0.01))
    sure = view.findings(rows(record(latency_ms=latency(0.42, 0.01)), slow))
    unsure = view.findings(rows(record(latency_ms=latency(0.60, 0.02)), slow))
    fast = view.findings(rows(record(latency_ms=latency(0.9, 0.01)), slow))
    assert sure == [
        "r int8 on host is slower than fp32: mean 0.610 ms against 0.420 ms (the intervals do not overlap)."
    ]
    assert unsure[0].endswith("(the intervals overlap).") and fast == []


def test_loss_of_accuracy_is_called_out_in_the_right_direction():
    worse = view.findings(rows(record(precision_requested="int8", task_metric=metric(0.4))))
    better = view.findings(rows(record(precision_requested="int8", task_metric=metric(0.6))))
    error = view.findings(rows(record(task_metric=metric(0.6, higher_is_better=False, name="CER"))))
    assert "less accurate" in worse[0] and "outside its 95" in worse[0] and "−0.100" in worse[0]
    assert better == [] and "less accurate" in error[0] and "+0.100" in error[0]


def test_accuracy_is_held_against_fp32_where_the_float_value_is_not_known():
    fp32 = record(task_metric=metric(0.52, float_value=None))
    int8 = record(precision_requested="int8", task_metric=metric(0.50, float_value=None))
    said = view.findings(rows(fp32, int8))
    assert len(said) == 1 and "less accurate than fp32: acc 0.500 against 0.520 (−0.020, within" in said[0]


def test_int8_that_is_no_smaller_is_called_out():
    said = view.findings(rows(record(artifact_bytes=1000), record(precision_requested="int8", artifact_bytes=1200)))
    assert said == [f"r int8 on host is no smaller than fp32: 1.20{words.NBSP}kB against 1.00{words.NBSP}kB."]


def test_best_is_the_fastest_verified_and_names_what_it_cannot_be_told_from():
    a = record(runtime="a", latency_ms=latency(0.50, 0.02), artifact_bytes=9)
    b = record(runtime="b", latency_ms=latency(0.52, 0.02), artifact_bytes=5)
    rejected = record(runtime="c", status="rejected", latency_ms=latency(0.1, 0.01), artifact_bytes=1)
    card = view.cards_of(rows(b, a, rejected), details_module.Details(schema=1))[0]
    assert card.best.artifact == "a fp32" and "b fp32" in card.best_because
    assert card.statuses == [("verified", 2), ("rejected", 1)]


def test_best_without_any_latency_is_the_smallest_verified_file():
    card = view.cards_of(
        rows(record(runtime="a", artifact_bytes=9), record(runtime="b", artifact_bytes=5)),
        details_module.Details(schema=1),
    )[0]
    assert card.best.artifact == "b fp32" and "latency was not measured" in card.best_because


def test_no_verified_artifact_means_no_best():
    card = view.cards_of(rows(record(status="failed", artifact_bytes=1)), details_module.Details(schema=1))[0]
    assert card.best is None


def test_student_without_a_row_of_its_own_is_shown_by_graph():
    graphs = [record(graph="encoder"), record(graph="decoder")]
    assert view.whole_students(graphs) == graphs
    assert view.whole_students([*graphs, record()]) == [record()]


# ---- numbers


def test_examples_in_the_docstrings_of_words():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999, "999"),
        (999.6e3, "1.00 M"),
        (1000, "1.00 k"),
        (20.05e9, "20.1 G"),
        (0, "0"),
        (4.2, "4.20"),
        (9.996e6, "10.0 M"),
    ],
)
def test_counts_keep_three_digits(value, text):
    assert words.count(value).replace(words.NBSP, " ") == text


def test_three_significant_digits_are_right_over_ten_decades():
    rng = np.random.default_rng(0)
    for value in 10 ** rng.uniform(-5, 5, 2000):
        assert float(words.significant(value)) == pytest.approx(value, rel=0.005)


def test_distribution_is_the_empirical_one():
    samples = np.random.default_rng(1).permutation(np.arange(1, 1001)).tolist()
    x, y = figures._quantiles(samples, 50)
    assert all(share == pytest.approx(value / 1000) for value, share in zip(x, y, strict=True))
    assert x[0] == 1 and x[-1] == 995 and len(x) == 50
    assert figures._quantiles([3.0], 50) == ([3.0], [1.0])


def test_axis_ticks_are_few_round_and_inside_the_range():
    for low, high in ((0.2, 0.25), (1.1, 1.1), (3e5, 3e8), (0.01, 900), (92_400, 92_400)):
        for unit in ("ms", "bytes", "count"):
            axis = figures.log_axis("", low, high, unit)
            assert 1 <= len(axis["tickvals"]) <= 6, (low, high)
            left, right = (10**end for end in axis["range"])
            assert left < low and right > high and all(left <= tick <= right for tick in axis["tickvals"])
    labels = figures.log_axis("", 0.05, 10, "ms")["ticktext"]
    assert [float(label) for label in labels] == pytest.approx(figures.log_axis("", 0.05, 10, "ms")["tickvals"])


def test_points_of_equal_cost_are_spread_around_it_in_order():
    spread = figures._spread([2.0, 2.0, 2.0, 50.0], 100.0)
    assert spread[3] == 50.0 and spread[1] == pytest.approx(2.0) and spread[0] < spread[1] < spread[2]
    assert math.sqrt(spread[0] * spread[2]) == pytest.approx(2.0)


def test_long_training_series_keep_their_mean_and_drop_what_is_no_number():
    lines = [{"step": i, "stage": "a", "loss": float(i % 7), "note": "text", "bad": float("nan")} for i in range(2400)]
    series = training_series(lines)
    assert [(s.stage, s.metric, len(s.points)) for s in series] == [("a", "loss", 2400)]
    drawn = figures.curve(series[0].points)["data"][0]
    assert len(drawn["x"]) <= figures.CURVE_POINTS
    assert np.mean(drawn["y"]) == pytest.approx(np.mean([i % 7 for i in range(2400)]), rel=1e-3)


def test_pictures_keep_their_pixels():
    picture = np.random.default_rng(2).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    example = {"title": "t", "query_png": encode_png(picture), "answers": [{"label": "x", "correct": False}]}
    shown = shown_examples({"s": [details_module.Example.model_validate(example)]})["s"][0]
    from PIL import Image

    decoded = Image.open(io.BytesIO(base64.b64decode(shown.picture.url.split(",")[1])))
    assert np.array_equal(np.asarray(decoded), picture) and (shown.picture.width, shown.picture.height) == (30, 20)
    assert not shown.found and shown.rank is None and shown.picture.still is None


def test_a_clip_plays_at_its_rate_and_has_a_still_picture():
    from PIL import Image

    clip = np.random.default_rng(3).integers(0, 255, (5, 32, 48, 1)).astype(np.uint8)
    example = {"title": "t", "query_png": encode_png(clip), "answers": [{"label": "x", "correct": True}]}
    shown = shown_examples({"s": [details_module.Example.model_validate(example)]})["s"][0].picture
    assert shown is not None and shown.still is not None and (shown.width, shown.height) == (48, 32)
    moving, still = (Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in (shown.url, shown.still))
    assert moving.n_frames == 5 and moving.info["duration"] == 40 and getattr(still, "n_frames", 1) == 1
    for index, picture in enumerate(clip):
        moving.seek(index)
        assert np.array_equal(np.asarray(moving.convert("L")), picture[..., 0])
    assert np.array_equal(np.asarray(still), clip[2, ..., 0])
