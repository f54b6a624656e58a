"""An evaluation that was cut short (an emulator is slow) is compared with the float student on the same items."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from compressor.records import Subject, _metric_drop, _task_metric, against_float
from profiles.device import load_device
from profiles.results import RanOn
from targets.bundle import Bundle
from targets.glue import Evaluation
from targets.measurement import Measurement


def test_a_cut_evaluation_is_compared_on_its_own_items() -> None:
    # right on the first ten items, wrong on the other twenty
    floats = np.r_[np.ones(10), np.zeros(20)]
    bundle = cast(Bundle, SimpleNamespace(teacher_value=lambda split: None))
    subject = Subject(bundle, {}, {"validation": Evaluation("top1", floats)})
    entry = {"name": "top1", "higher_is_better": True, "extras": {}}
    report: dict[str, Any] = {"graphs": {}, "query": None, "metrics": {"validation": entry}, "examples": []}
    compiled = np.r_[np.ones(9), 0.0]
    ran_on = RanOn(kind="emulator", name="board")
    found = Measurement(report, {"scores/validation": compiled}, {}, ran_on, "real")
    metric = _task_metric(subject, found, "validation")
    assert metric is not None and metric.n == 10
    np.testing.assert_allclose([metric.value, metric.float_value], [0.9, 1.0])
    drop, problem = _metric_drop(subject, load_device("host"), found)
    np.testing.assert_allclose(drop, 0.1)
    assert problem is None, "one item of ten is within noise"
    paired = against_float(subject, found, "validation")
    assert paired is not None and paired[1] == 10
    np.testing.assert_allclose(paired[0].difference, -0.1)
    assert paired[0].ci95[0] < -0.1 < paired[0].ci95[1] <= 0
