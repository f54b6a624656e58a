"""Simplification keeps what Ramer-Douglas-Peucker keeps, and five-tuples say where the pen goes."""

import numpy as np
import pytest

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.raster import rasterise
from compressor.tasks.sketch.simplify import five_tuples, significance_reference, simplify, simplify_to
from tests.tools import need_module


def circle(count: int, radius: float = 0.4) -> np.ndarray:
    """`count` segments, the first point repeated at the end."""
    angles = np.linspace(0, 2 * np.pi, count + 1)
    points = 0.5 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points[-1] = points[0]
    return points


def douglas_peucker(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The textbook's recursion, in float64, as the peer."""
    start, end = points[0], points[-1]
    along = end - start
    length = float(along @ along)
    t = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    distances = np.linalg.norm(points - start - t[:, None] * along, axis=1)
    farthest = int(np.argmax(distances))
    if distances[farthest] <= tolerance:
        return points[[0, -1]]
    left, right = douglas_peucker(points[: farthest + 1], tolerance), douglas_peucker(points[farthest:], tolerance)
    return np.concatenate([left[:-1], right])


def test_points_on_a_straight_line_go_and_a_corner_stays():
    corner = [[0, 0], [0.25, 0], [0.5, 0], [0.5, 0.125], [0.5, 1]]
    result = simplify(Sketch.from_strokes([corner], 0.1), 0.0)
    assert result.points.tolist() == [[0, 0], [0.5, 0], [0.5, 1]]
    assert result.offsets.tolist() == [0, 3] and result.widths.tolist() == pytest.approx([0.1])


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.2])
def test_random_strokes_keep_the_points_that_the_textbooks_recursion_keeps(tolerance):
    rng = np.random.default_rng(0)
    for _ in range(20):
        stroke = np.cumsum(rng.normal(0, 0.05, (rng.integers(2, 60), 2)), axis=0).astype(np.float32)
        kept = simplify(Sketch.from_strokes([stroke], 0.05), tolerance).points
        assert kept == pytest.approx(douglas_peucker(stroke.astype(float), tolerance))


def test_the_compiled_descent_gives_the_references_bits():
    need_module("numba")
    from compressor.tasks.sketch.simplify_numba import descend

    rng = np.random.default_rng(2)
    for count in [1, 2, 3, *rng.integers(4, 80, 60)]:
        stroke = np.cumsum(rng.normal(0, 0.05, (count, 2)), axis=0).astype(np.float32)
        if count % 2:
            stroke = np.round(stroke * 16) / np.float32(
                16
            )  # with points that are equally far, and the same point twice
        for stop in (np.float32(0), np.float32(0.0004)):
            assert descend(stroke, stop).tobytes() == significance_reference(stroke, stop).tobytes()


@pytest.mark.parametrize(("tolerance", "segments"), [(0.4 * (1 - np.cos(np.pi / k)) * 1.001, k) for k in (4, 8, 16)])
def test_a_circle_becomes_the_polygon_whose_sagitta_is_the_tolerance(tolerance, segments):
    # an arc of 2 pi / k is r (1 - cos(pi / k)) from its chord at most, and halving ends where that is the tolerance
    kept = simplify(Sketch.from_strokes([circle(64)], 0.05), tolerance).points
    assert len(kept) == segments + 1 and (kept[0] == kept[-1]).all()


def test_what_is_left_out_is_no_farther_than_the_tolerance_and_no_stroke_is_lost():
    rng = np.random.default_rng(1)
    strokes = [np.cumsum(rng.normal(0, 0.02, (n, 2)), axis=0) + 0.5 for n in (1, 2, 30, 50)]
    sketch = Sketch.from_strokes(strokes, [0.1, 0.2, 0.3, 0.0], [0, 0, 0, 7])
    result = simplify(sketch, 0.03)
    assert (result.widths == sketch.widths).all() and (result.filled == sketch.filled).all()
    assert [len(result.stroke(i)) for i in (0, 1)] == [1, 2]
    kept = result.stroke(2)
    start, along = kept[:-1, None], np.diff(kept, axis=0)[:, None]
    offset = sketch.stroke(2) - start
    t = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)[..., None]
    assert np.linalg.norm(offset - t * along, axis=2).min(axis=0).max() <= 0.03 * 1.0001


def test_a_filled_outline_stays_an_outline():
    square = np.array([[0.4, 0.4], [0.5, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]])
    sketch = Sketch.from_strokes([square], 0.0, [1])
    assert simplify(sketch, 0.01).points == pytest.approx(square[[0, 2, 3, 4]])
    assert len(simplify(sketch, 10.0).points) == 3
    exact, coarse = rasterise(sketch, 48), rasterise(simplify(sketch, 0.01), 48)
    assert coarse == pytest.approx(exact, abs=1e-6)


def test_a_fixed_number_of_points_are_those_that_matter_most():
    zigzag = [[0, 0], [0.25, 0.01], [0.5, 0.3], [0.75, 0.02], [1, 0]]
    sketch = Sketch.from_strokes([zigzag, [[0.2, 0.9], [0.201, 0.9], [0.8, 0.9]]], 0.05)
    assert simplify_to(sketch, 8) is sketch
    assert simplify_to(sketch, 5).points == pytest.approx(
        np.array([[0, 0], [0.5, 0.3], [1, 0], [0.2, 0.9], [0.8, 0.9]])
    )
    assert simplify_to(sketch, 2).points == pytest.approx(np.array([[0, 0], [0.2, 0.9]]))
    only = simplify_to(sketch, 1)  # the longest of more strokes than points
    assert len(only) == 1 and only.points == pytest.approx(np.array([[0, 0]]))


@pytest.mark.parametrize("points", [1, 3, 10, 40])
def test_fewer_points_nest_in_more(points):
    rng = np.random.default_rng(3)
    strokes = [np.cumsum(rng.normal(0, 0.05, (n, 2)), axis=0) for n in (20, 5, 30)]
    sketch = Sketch.from_strokes(strokes, 0.05, [0, 2, 0])
    fewer, more = simplify_to(sketch, points), simplify_to(sketch, points + 1)
    assert len(fewer.points) == points and len(more.points) == points + 1
    assert {tuple(p) for p in fewer.points.tolist()} < {tuple(p) for p in more.points.tolist()}


def test_five_tuples_are_steps_and_pen_states():
    sketch = Sketch.from_strokes([[[0.25, 0.5], [0.5, 0.75]], [[0.5, 0.25]]], 0.05)
    rows = five_tuples(sketch, 5)
    assert rows.dtype == np.float32 and rows.shape == (5, 5)
    assert rows.tolist() == [
        [0.25, 0.5, 1, 0, 0],
        [0.25, 0.25, 0, 1, 0],
        [0.0, -0.5, 0, 1, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1],
    ]


def test_five_tuples_of_a_long_sketch_are_those_of_its_simplification():
    sketch = Sketch.from_strokes([circle(64), circle(64, 0.2)], 0.05)
    rows = five_tuples(sketch, 20)
    assert rows[:, 4].sum() == 0 and rows[:, 3].sum() == 2 and (rows[:, 2:].sum(axis=1) == 1).all()
    assert np.cumsum(rows[:, :2], axis=0) == pytest.approx(simplify_to(sketch, 20).points, abs=1e-6)
    assert five_tuples(Sketch.from_strokes([], 0.1), 2).tolist() == [[0, 0, 0, 0, 1]] * 2
