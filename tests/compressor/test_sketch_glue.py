"""The glue ranks as the arithmetic says, with any selector's canvases, without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compressor.data.sketch import Sketch, pack_sketches
from compressor.tasks.sketch import glue as glue_module
from compressor.tasks.sketch.glue import Glue
from compressor.tasks.sketch.raster import rasterise
from compressor.tasks.sketch.raster_cost import raster_macs
from compressor.tasks.sketch.selector.glue import OneLook
from compressor.tasks.sketch.simplify import simplification_work
from profiles.errors import RequestError
from profiles.storage import save_npz
from targets.glue import resolve_glue

ROOT = Path(__file__).parents[2]
SETTINGS = {"selector": {"kind": "fixed", "canvas_px": 16}}


def bar(height: float) -> Sketch:
    return Sketch.from_strokes([[[0.1, height], [0.9, height]]], 0.1)


def flatten(feeds):
    """An encoder whose embedding is the canvas itself."""
    return {"embedding": feeds["canvas"].reshape(len(feeds["canvas"]), -1)}


@pytest.fixture
def sketches():
    return [bar(height) for height in np.linspace(0.1, 0.9, 9)]


@pytest.fixture
def arrays(sketches):
    """Nine bars; the gallery holds their own canvases, backwards."""
    gallery = np.stack([rasterise(sketch, 16).reshape(-1) for sketch in sketches])[::-1]
    return {
        **pack_sketches(sketches),
        "truth": np.arange(9)[::-1].copy(),
        "gallery": 7 * gallery,  # lengths do not count
        "gallery_thumbs": np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((9, 4, 4, 3), np.uint8),
        "labels": np.array([f"bar {index}" for index in range(9)]),
    }


def test_the_glue_is_found_by_the_tasks_name_and_needs_no_torch():
    assert resolve_glue("sketch") is Glue
    heavy = ("torch", "numba", "PIL", "svgelements", "compressor.recipe")
    code = f"import sys, compressor.tasks.sketch.glue; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_perfect_encoder_is_always_right(arrays):
    evaluation = Glue({"encoder_16": flatten}, SETTINGS, None).evaluate(arrays)
    assert evaluation.name == "acc@1" and evaluation.scores.tolist() == [1.0] * 9
    assert evaluation.extras == {"acc@5": 1.0, "acc@10": 1.0}
    assert len(Glue({"encoder_16": flatten}, SETTINGS, None).evaluate(arrays, limit=4).scores) == 4


def test_ranks_are_those_of_a_hand_made_gallery():
    sketches = [bar(0.5)] * 3
    gallery = np.zeros((12, 2))
    angles = np.deg2rad(np.arange(12) * 5.0)  # the k-th photo is k * 5 degrees from the query
    gallery[:, 0], gallery[:, 1] = np.cos(angles), np.sin(angles)
    arrays = {**pack_sketches(sketches), "truth": np.array([0, 4, 9]), "gallery": gallery}

    def encoder(feeds):
        return {"embedding": np.tile(np.array([3.0, 0.0], np.float32), (len(feeds["canvas"]), 1))}

    evaluation = Glue({"encoder_16": encoder}, SETTINGS, None).evaluate(arrays)
    assert evaluation.scores.tolist() == [1.0, 0.0, 0.0]
    assert evaluation.extras == {"acc@5": pytest.approx(2 / 3), "acc@10": 1.0}


@pytest.mark.parametrize("value", [1.0, 0.0, np.nan, np.inf])
def test_a_student_that_says_the_same_of_everything_is_never_right(arrays, value):
    def encoder(feeds):
        return {"embedding": np.full((len(feeds["canvas"]), 256), value, np.float32)}

    same = {**arrays, "gallery": np.ones((9, 256))}
    with np.errstate(invalid="ignore"):
        evaluation = Glue({"encoder_16": encoder}, SETTINGS, None).evaluate(same)
    assert evaluation.value == 0.0 and evaluation.extras["acc@5"] == 0.0


def test_a_query_alone_gets_the_answer_of_the_evaluation(arrays, sketches, tmp_path):
    save_npz(tmp_path / "gallery.npz", {"embeddings": arrays["gallery"], "labels": arrays["labels"]})
    shapes = []

    def encoder(feeds):
        shapes.append(feeds["canvas"].shape)
        assert feeds["canvas"].dtype == np.float32
        return flatten(feeds)

    glue = Glue({"encoder_16": encoder}, SETTINGS, tmp_path)
    answers = [glue(query) for query in glue.queries(arrays)]
    assert [answer.indices[0] for answer in answers] == arrays["truth"].tolist()
    assert answers[0].labels[0] == "bar 8" and answers[0].canvas_px == 16
    assert answers[0].similarities[0] == pytest.approx(1.0, abs=1e-5)
    assert set(shapes) == {(1, 1, 16, 16)}


def test_without_a_gallery_of_its_own_a_student_searches_the_splits_embedded_before_the_first_query(arrays):
    glue = Glue({"encoder_16": flatten}, SETTINGS, None)
    assert [glue(query).labels[0] for query in glue.queries(arrays)] == [f"bar {index}" for index in range(9)][::-1]

    images = (255 * arrays["gallery"].reshape(9, 16, 16, 1).repeat(3, axis=3) / 7).astype(np.uint8)
    calls = []

    def photo_encoder(feeds):
        calls.append(len(feeds["image"]))
        return {"embedding": feeds["image"][:, 0].reshape(len(feeds["image"]), -1)}

    graphs = {"encoder_16": flatten, "photo_encoder": photo_encoder}
    glue = Glue(graphs, {**SETTINGS, "gallery": "student"}, None)
    queries = list(glue.queries({**arrays, "gallery_images": images}))
    assert calls == [9]
    assert [glue(query).indices[0] for query in queries] == arrays["truth"].tolist() and calls == [9]


def test_the_encoder_gets_ink_as_the_settings_normalise_it(arrays):
    seen = []

    def encoder(feeds):
        seen.append(feeds["canvas"])
        return flatten(feeds)

    settings = {**SETTINGS, "normalise": {"mean": 0.25, "std": 0.5}}
    Glue({"encoder_16": encoder}, settings, None).evaluate(arrays)
    assert seen[0].min() == pytest.approx(-0.5) and seen[0].max() == pytest.approx(1.5)


def test_a_selector_may_choose_another_canvas_for_every_sketch(arrays, monkeypatch):
    class ByHeight(OneLook):
        def __init__(self, settings, graphs):
            self.canvases = (8, 16)

        def choose(self, sketches):
            return np.array([8 if sketch.points[0, 1] < 0.5 else 16 for sketch in sketches])

    monkeypatch.setitem(glue_module.SELECTORS, "by-height", ByHeight)
    calls = {8: 0, 16: 0}

    def encoder(canvas_px):
        def call(feeds):
            assert feeds["canvas"].shape[1:] == (1, canvas_px, canvas_px)
            calls[canvas_px] += len(feeds["canvas"])
            pooled = feeds["canvas"].reshape(len(feeds["canvas"]), 8, canvas_px // 8, 8, canvas_px // 8).mean((2, 4))
            return {"embedding": pooled.reshape(len(pooled), -1)}

        return call

    graphs = {"encoder_8": encoder(8), "encoder_16": encoder(16)}
    glue = Glue(graphs, {"selector": {"kind": "by-height"}}, None)
    evaluation = glue.evaluate({**arrays, "gallery": np.random.default_rng(0).normal(size=(9, 64))})
    assert calls == {8: 4, 16: 5} and len(evaluation.scores) == 9
    with pytest.raises(RequestError, match="chooses a 8 px canvas, but there is no encoder_8"):
        Glue({"encoder_16": encoder(16)}, {"selector": {"kind": "by-height"}}, None)


def test_a_students_gallery_is_embedded_by_its_photo_encoder(arrays, sketches):
    images = np.stack([255 * rasterise(sketch, 16) for sketch in sketches]).astype(np.uint8)
    arrays = {name: value for name, value in arrays.items() if name != "gallery"}
    arrays["gallery_images"] = images[::-1, :, :, None].repeat(3, axis=3)

    def photo_encoder(feeds):
        assert feeds["image"].dtype == np.float32 and feeds["image"].shape[1:] == (3, 16, 16)
        return {"embedding": feeds["image"][:, 0].reshape(len(feeds["image"]), -1) * 0.5 + 0.5}

    settings = {**SETTINGS, "gallery": "student", "photo_normalise": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    glue = Glue({"encoder_16": flatten, "photo_encoder": photo_encoder}, settings, None)
    assert glue.evaluate(arrays).value == 1.0
    with pytest.raises(RequestError, match="the split: no array 'gallery_images'"):
        glue.evaluate({name: value for name, value in arrays.items() if name != "gallery_images"})


def test_examples_show_the_query_as_the_encoder_saw_it_and_what_was_found(arrays):
    examples = Glue({"encoder_16": flatten}, SETTINGS, None).examples(arrays, 3)
    assert [example.title for example in examples] == ["bar 8 (16 px)", "bar 4 (16 px)", "bar 0 (16 px)"]
    for example in examples:
        assert example.query.shape == (96, 96, 1) and example.query.dtype == np.uint8
        assert len(example.answers) == 5
        assert [answer.correct for answer in example.answers] == [True, False, False, False, False]
        best = example.answers[0]
        assert best.label == example.title.removesuffix(" (16 px)") and best.image[0, 0, 0] == int(best.label[-1])


def test_what_is_missing_is_said(arrays, sketches, tmp_path):
    with pytest.raises(RequestError, match="selector 'oracle': this version knows fixed, statistics, gru"):
        Glue({}, {"selector": {"kind": "oracle"}}, None)
    glue = Glue({"encoder_16": flatten}, SETTINGS, tmp_path)
    with pytest.raises(RequestError, match="no gallery"):
        glue(sketches[0])
    with pytest.raises(RequestError, match="no array 'sketch_widths'"):
        glue.evaluate({name: value for name, value in arrays.items() if name != "sketch_widths"})


def two_canvases(kind: str) -> Glue:
    """An encoder that is often wrong on 8 px and right on 16 px; a cascade that is never sure looks at both."""
    settings = {"kind": "fixed", "canvas_px": 16}
    if kind == "cascade":
        more = {"measure": "margin", "combine": "last", "thresholds": [9.0]}
        settings = {"kind": "cascade", "canvases": [8, 16], **more}

    def coarse(feeds):
        """The same for a bar and for the next one."""
        rows = feeds["canvas"].sum(3).argmax(2)[:, 0] // 2
        return {"embedding": np.eye(256, dtype=np.float32)[rows * 64 + 40]}

    return Glue({"encoder_8": coarse, "encoder_16": flatten}, {"selector": settings}, None)


def test_a_query_s_cost_is_its_looks_drawn_and_searched_and_what_chooses(arrays, sketches):
    glue = two_canvases("cascade")
    queries = list(glue.queries(arrays))
    found = glue.macs(queries, [glue(query) for query in queries])
    drawn = [sum(raster_macs(sketch, px) for px in (8, 16)) for sketch in sketches]
    assert found["drawing"] == pytest.approx(np.mean(drawn))
    assert found["search"] == 2 * 9 * 256 and found["choosing"] == (9 * 10 + 5) / 2
    fixed = two_canvases("fixed")
    queries = list(fixed.queries(arrays))
    found = fixed.macs(queries, [fixed(query) for query in queries])
    assert found["search"] == 9 * 256 and found["choosing"] == 0


def test_what_simplification_compares_is_counted_as_it_runs():
    """Of a triangle wave of 5 points every point remains: 3 are compared, then 1 beside the split, or 2 and 1."""
    wave = Sketch.from_strokes([[[0.0, 0.0], [0.2, 0.9], [0.4, 0.0], [0.6, 0.5], [0.8, 0.0]]], 0.1)
    assert simplification_work(wave, 0.01) == (3 + 2 + 1, 3)
    assert simplification_work(bar(0.5), 0.01) == (0, 0)


def test_charts_show_every_canvas_the_line_through_them_and_what_a_selector_gains(arrays):
    macs = {"encoder_8": 1000.0, "encoder_16": 4000.0}
    front, shares = two_canvases("cascade").charts(arrays, macs)
    by_name = {point.label: point for point in front.points}
    assert list(by_name) == ["8 px", "16 px", "8 + 16 px, always", "selector (cascade)"]
    assert by_name["16 px"].y == 1 and by_name["8 px"].y < 1
    ours, always = by_name["selector (cascade)"], by_name["8 + 16 px, always"]
    assert (ours.x, ours.y) == (always.x, always.y) and ours.x > by_name["8 px"].x + by_name["16 px"].x
    (line,) = front.lines.values()
    assert line == ((by_name["8 px"].x, by_name["8 px"].y), (by_name["16 px"].x, 1.0))
    assert "paired 95 % interval" in front.text
    assert shares.bins == ("1",) and shares.counts == (9,) and shares.parts == {"8 px": (0.0,), "16 px": (1.0,)}
    (front,) = two_canvases("fixed").charts(arrays, macs)
    assert len(front.points) == 2 and Glue({"encoder_16": flatten}, SETTINGS, None).charts(arrays, macs) == []
