"""One rasteriser: the pixels are those of exact coverage, and the compiled kernel draws the reference's."""

import importlib.util

import numpy as np
import pytest

from compressor.data.sketch import Sketch
from compressor.data.svg import parse_svg, render_svg
from compressor.tasks.sketch.augment import Augmentation, augment, select_strokes
from compressor.tasks.sketch.raster import draw_reference, fastest, pixels_uint8, rasterise, rasterise_batch
from tests.tools import need_module

FACE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">
<circle cx="36" cy="36" r="23" fill="none" stroke="#000" stroke-width="2"/>
<path d="M20,44 C26,58 46,58 52,44 Z" fill="none" stroke="#000" stroke-width="2" stroke-linecap="round"/>
<circle cx="28" cy="30" r="3"/><ellipse cx="45" cy="30" rx="2" ry="4"/>
<path d="M31,10h10v6h-10z M33,12v2h6v-2z"/></svg>"""


def line(*points, width=0.05, filled=0) -> Sketch:
    return Sketch.from_strokes([points], width if not filled else 0.0, filled)


def draw_with_numpy(sketch: Sketch, canvas_px: int, minimum_width_px: float = 1.0) -> np.ndarray:
    canvas = np.zeros((canvas_px, canvas_px), np.float32)
    draw_reference(sketch.points, sketch.offsets, sketch.widths, sketch.filled, minimum_width_px, canvas)
    return canvas


@pytest.fixture(params=["numpy", "numba"])
def draw(request):
    """Both implementations, one after the other."""
    if request.param == "numpy":
        return draw_with_numpy
    need_module("numba")
    return rasterise


def scribble(rng: np.random.Generator) -> Sketch:
    """Random lines, dots, and filled shapes with self-crossings and holes, partly off the canvas."""
    strokes = [rng.uniform(-0.2, 1.2, (rng.integers(1, 8), 2)) for _ in range(6)]
    return Sketch.from_strokes(strokes, rng.uniform(0, 0.1, 6), [0, 1, 1, 0, 0, 3])


@pytest.mark.parametrize("canvas_px", [12, 32, 95])
def test_the_kernel_draws_the_references_bits(canvas_px):
    need_module("numba")
    rng = np.random.default_rng(0)
    for sketch in [parse_svg(FACE), *(scribble(rng) for _ in range(20))]:
        assert rasterise(sketch, canvas_px).tobytes() == draw_with_numpy(sketch, canvas_px).tobytes()


@pytest.mark.parametrize(("canvas_px", "levels"), [(24, 4), (32, 4), (96, 2.5)])
def test_pixels_are_near_exact_coverage(draw, canvas_px, levels):
    # resvg at 16 x 16 samples per pixel, averaged
    exact = 255 - render_svg(FACE, 16 * canvas_px)[..., 0].astype(float)
    exact = exact.reshape(canvas_px, 16, canvas_px, 16).mean(axis=(1, 3))
    drawn = 255.0 * draw(parse_svg(FACE), canvas_px, 0.0)
    inked = (exact > 0) | (drawn > 0)
    assert np.abs(drawn - exact).mean() < levels
    assert np.abs(drawn - exact)[inked].mean() < 20
    assert drawn.sum() == pytest.approx(exact.sum(), rel=0.06)


def test_a_straight_line_covers_exactly_its_band(draw):
    # 3.5 px wide around y = 8.25: rows 6.5 to 10 of a 16 px canvas
    canvas = draw(line([-1, 8.25 / 16], [2, 8.25 / 16], width=3.5 / 16), 16)
    rows = np.zeros(16)
    rows[[6, 7, 8, 9]] = [0.5, 1, 1, 1]
    assert canvas == pytest.approx(np.repeat(rows[:, None], 16, axis=1), abs=1e-6)


def test_rows_run_down_and_columns_right(draw):
    canvas = draw(line([0.5, 0.0], [1.0, 0.0]), 8)
    assert canvas[0, 5] > 0.4 and canvas[0, 1] == 0 and canvas[7].max() == 0


@pytest.mark.parametrize("canvas_px", [12, 16, 24])
def test_a_thin_line_keeps_its_ink_on_a_small_canvas(draw, canvas_px):
    # a line of 2/72 is 0.33 px wide on 12 px; it is drawn one pixel wide, so a column across it sums to one
    canvas = draw(line([-1, 0.31], [2, 0.33], width=2 / 72), canvas_px)
    assert canvas.sum(axis=0) == pytest.approx(np.ones(canvas_px), abs=0.02)


def test_a_single_point_is_a_dot_of_the_lines_width(draw):
    canvas = draw(line([0.5, 0.5], width=10 / 64), 64)
    assert canvas.sum() == pytest.approx(np.pi * 25, rel=0.01)


def test_a_filled_square_covers_its_area_and_a_hole_is_left_out(draw):
    outer = np.array([[4, 4], [28, 4], [28, 28], [4, 28]]) / 32
    inner = np.array([[10, 10], [10, 20], [20, 20], [20, 10]]) / 32  # the other way round
    assert draw(line(*outer, filled=1), 32).sum() == pytest.approx(24 * 24, rel=1e-3)
    ring = Sketch.from_strokes([outer, inner], 0.0, [1, 1])
    canvas = draw(ring, 32)
    assert canvas.sum() == pytest.approx(24 * 24 - 100, rel=1e-3) and canvas[15, 15] == 0
    apart = Sketch.from_strokes([outer, inner], 0.0, [1, 2])  # a shape of its own is no hole
    assert draw(apart, 32)[15, 15] == 1


def test_winding_is_non_zero_and_not_even_odd(draw):
    # a pentagram's middle is wound twice
    angles = np.deg2rad(-90 + 144 * np.arange(5))
    star = 0.5 + 0.45 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert draw(line(*star, filled=1), 32)[16, 16] == 1


def test_overlapping_ink_is_not_darker_than_ink(draw):
    once = draw(line([0.1, 0.5], [0.9, 0.52]), 32)
    twice = draw(Sketch.from_strokes([[[0.1, 0.5], [0.9, 0.52]]] * 2, 0.05), 32)
    assert (once == twice).all() and once.max() == 1


def test_what_lies_off_the_canvas_does_no_harm(draw):
    assert draw(line([5, 5], [9, -7]), 16).max() == 0
    assert draw(line([-9, -9], [9, -9], [9, 9], [-9, 9], filled=1), 16).min() == 1
    assert draw(Sketch.from_strokes([], 0.1), 16).max() == 0


def test_a_batch_is_its_sketches_one_by_one():
    sketches = [scribble(np.random.default_rng(seed)) for seed in range(3)]
    batch = rasterise_batch(sketches, 20)
    assert batch.shape == (3, 20, 20) and batch.dtype == np.float32
    assert (batch == np.stack([rasterise(sketch, 20) for sketch in sketches])).all()


def test_without_numba_the_reference_draws(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fastest.cache_clear()
    try:
        assert fastest() is draw_reference
        assert rasterise(parse_svg(FACE), 16).sum() > 10
    finally:
        fastest.cache_clear()


def test_pictures_for_people_are_black_on_white():
    assert pixels_uint8(np.array([[0.0, 0.5, 1.0]])).tolist() == [[255, 127, 0]]


STILL = Augmentation(flip=0.0)


def test_augmentation_is_a_pure_function_of_the_generator():
    sketch = parse_svg(FACE)
    before = sketch.points.copy()
    one = augment(sketch, np.random.default_rng(5))
    two = augment(sketch, np.random.default_rng(5))
    other = augment(sketch, np.random.default_rng(6))
    assert (one.points == two.points).all() and (one.widths == two.widths).all()
    assert len(other.points) != len(one.points) or (other.points != one.points).any()
    assert (sketch.points == before).all()


def test_strength_zero_changes_nothing_and_a_flip_mirrors():
    sketch = parse_svg(FACE)
    same = augment(sketch, np.random.default_rng(0), 0.0, STILL)
    assert same.points == pytest.approx(sketch.points, abs=1e-6) and (same.widths == sketch.widths).all()
    flipped = augment(sketch, np.random.default_rng(0), 0.0, Augmentation(flip=1.0))
    mirrored = rasterise(flipped, 32)[:, ::-1]
    assert mirrored == pytest.approx(rasterise(sketch, 32), abs=1e-4)


def test_variations_have_the_spread_that_the_settings_say():
    only_turns = Augmentation(**{name: 0.0 for name in STILL.to_json()} | {"rotation_deg": 9.0})
    rng = np.random.default_rng(0)
    bar = line([0.0, 0.5], [1.0, 0.5])
    ends = np.stack([augment(bar, rng, 2.0, only_turns).points for _ in range(2000)])
    direction = ends[:, 1] - ends[:, 0]
    angles = np.rad2deg(np.arctan2(direction[:, 1], direction[:, 0]))
    assert angles.std() == pytest.approx(18, rel=0.06) and abs(angles.mean()) < 1.5
    assert np.linalg.norm(direction, axis=1) == pytest.approx(np.ones(2000), abs=1e-5)


def test_dropping_leaves_a_stroke_and_keeps_holes_with_their_shapes():
    strokes = [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]], [[0.3, 0.2], [0.8, 0.2], [0.8, 0.5]], [[0, 0], [1, 1]]]
    sketch = Sketch.from_strokes(strokes, [0, 0, 0.1], [2, 2, 0])
    most = Augmentation(drop=0.7)
    kept = [augment(sketch, np.random.default_rng(seed), 1.0, most).filled.tolist() for seed in range(60)]
    assert {tuple(own) for own in kept} == {(2, 2, 0), (2, 2), (0,)}
    everything = [len(augment(sketch, np.random.default_rng(s), 1.0, Augmentation(drop=1.0))) for s in range(20)]
    assert set(everything) == {1, 2}
    assert len(augment(Sketch.from_strokes([], 0.1), np.random.default_rng(0))) == 0


def test_selected_strokes_keep_their_points():
    sketch = scribble(np.random.default_rng(1))
    some = select_strokes(sketch, np.array([1, 4]))
    assert (some.stroke(0) == sketch.stroke(1)).all() and (some.stroke(1) == sketch.stroke(4)).all()
    assert some.filled.tolist() == [1, 0] and some.offsets[0] == 0
