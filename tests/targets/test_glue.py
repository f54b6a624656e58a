from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiles.errors import RequestError
from targets.glue import Evaluation, resolve_glue
from targets.model import ModelGlue, mae, mse, resolve_metric, top1, top5


def test_glue_names_are_resolved_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_glue("model") is ModelGlue
    assert resolve_glue("sketch").__module__ == "compressor.tasks.sketch.glue"
    with pytest.raises(RequestError, match="no glue for task 'nothing'"):
        resolve_glue("nothing")
    for name in ("../etc", "os.path", "a b", ""):
        with pytest.raises(RequestError, match="not the name of a task"):
            resolve_glue(name)


def test_a_fault_inside_a_glue_is_not_taken_for_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from targets import glue

    (tmp_path / "others" / "broken").mkdir(parents=True)
    (tmp_path / "others" / "broken" / "glue.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(glue, "BUILTIN", "others")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        resolve_glue("broken")


def test_metrics_by_hand() -> None:
    outputs = {"y": np.array([[0.1, 0.9, 0, 0, 0, 0], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0.0] * 6])}
    truth = {"targets": np.array([1, 4, 5])}
    np.testing.assert_array_equal(top1(outputs, truth), [1, 0, 0])
    np.testing.assert_array_equal(top5(outputs, truth), [1, 1, 0])  # equal scores for everything are no answer
    values, wanted = {"y": np.array([[1.0, 2.0], [3.0, 5.0]])}, {"targets": np.array([[1.0, 4.0], [3.0, 4.0]])}
    np.testing.assert_array_equal(mae(values, wanted), [1.0, 0.5])
    np.testing.assert_array_equal(mse(values, wanted), [2.0, 0.5])
    assert resolve_metric("mse")[1] is False and resolve_metric("top1")[1] is True


def test_a_column_of_outputs_fits_a_vector_of_targets() -> None:
    np.testing.assert_array_equal(mae({"y": np.array([[1.0], [3.0]])}, {"targets": np.array([2.0, 3.0])}), [1.0, 0.0])


@pytest.mark.parametrize("name", ["accuracy", "no.such.module:f", "os:no_such_function", "a-b:c", "os:"])
def test_an_unknown_metric_is_one_line(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve_metric(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def _glue(metric: str | None, outputs: Any = None) -> ModelGlue:
    graphs = {"model": lambda feeds: {"y": feeds["x"] if outputs is None else outputs}}
    return ModelGlue(graphs, {"graph": "model", "metric": metric}, Path())


def test_evaluation_goes_in_chunks_and_gives_one_score_per_item() -> None:
    x = np.eye(5, dtype=np.float32)[np.arange(200) % 5]
    arrays = {"inputs/x": x, "targets": np.where(np.arange(200) < 150, np.arange(200) % 5, 4 - np.arange(200) % 5)}
    evaluation = _glue("top1").evaluate(arrays)
    assert evaluation.scores.shape == (200,) and evaluation.value == pytest.approx((150 + 10) / 200)
    assert _glue("top1").evaluate(arrays, limit=7).scores.shape == (7,)
    assert len(list(_glue("top1").queries(arrays))) == 200


def test_a_metric_that_does_not_fit_says_so() -> None:
    arrays = {"inputs/x": np.zeros((3, 2), np.float32), "targets": np.zeros((3, 2))}
    with pytest.raises(RequestError, match=r"top1: needs an output \(n, classes\) and targets \(n,\)"):
        _glue("top1").evaluate(arrays)
    with pytest.raises(RequestError, match="no metric"):
        _glue(None).evaluate(arrays)
    with pytest.raises(RequestError, match="no targets"):
        _glue("top1").evaluate({"inputs/x": np.zeros((3, 2), np.float32)})


def test_an_evaluation_is_a_weighted_mean() -> None:
    assert Evaluation("wer", np.array([1.0, 0.0]), np.array([3.0, 1.0]), False).value == 0.75
