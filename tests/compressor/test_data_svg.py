"""Strokes of an SVG are where the SVG says, as wide as it says."""

import math

import numpy as np
import pytest

from compressor.data.sketch import Sketch, pack_sketches, unpack_sketch, unpack_sketches
from compressor.data.svg import parse_svg, render_svg
from compressor.data.svg_workers import parse_svgs, render_svgs

LINE = 'fill="none" stroke="#000" stroke-width="2"'


def svg(body: str, view_box: str = "0 0 72 72", more: str = "") -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view_box}" {more}>{body}</svg>'


def length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_a_circle_keeps_to_the_tolerance_and_closes():
    sketch = parse_svg(svg(f'<circle cx="36" cy="36" r="23" {LINE}/>'), tolerance=0.15 / 72)
    points = sketch.points.astype(np.float64) * 72 - 36
    assert np.allclose(np.hypot(*points.T), 23, atol=1e-4)
    middles = (points[:-1] + points[1:]) / 2
    assert (23 - np.hypot(*middles.T)).max() <= 0.15
    assert np.allclose(points[0], points[-1], atol=1e-4)
    assert sketch.widths == pytest.approx([2 / 72])


def test_a_cubic_is_never_farther_than_the_tolerance_from_its_chords():
    sketch = parse_svg(svg(f'<path d="M10,60 C10,0 60,0 60,60" {LINE}/>'), tolerance=0.001)
    t = np.linspace(0, 1, 4001)[:, None]
    control = np.array([[10, 60], [10, 0], [60, 0], [60, 60]]) / 72
    curve = (1 - t) ** 3 * control[0] + 3 * t * (1 - t) ** 2 * control[1] + 3 * t**2 * (1 - t) * control[2]
    curve += t**3 * control[3]
    a, b = sketch.points[:-1, None].astype(float), sketch.points[1:, None].astype(float)
    along = np.clip(((curve - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1), 0, 1)
    distance = np.linalg.norm(curve - a - along[..., None] * (b - a), axis=-1).min(axis=0)
    assert distance.max() <= 0.001 and len(sketch.points) < 40


def test_shapes_of_every_kind_become_strokes():
    body = "".join(
        f"<{shape} {LINE}/>"
        for shape in (
            'line x1="0" y1="0" x2="36" y2="0"',
            'rect x="10" y="10" width="20" height="10"',
            'polyline points="0,0 10,0 10,10"',
            'polygon points="0,0 10,0 10,10"',
            'ellipse cx="36" cy="36" rx="20" ry="10"',
        )
    )
    sketch = parse_svg(svg(body))
    lengths = [length(sketch.stroke(index)) * 72 for index in range(len(sketch))]
    # Ramanujan's formula for the ellipse's circumference
    h = (10 / 30) ** 2
    ellipse = math.pi * 30 * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert lengths == pytest.approx([36, 60, 20, 20 + math.sqrt(200), ellipse], rel=0.01)


def test_transforms_move_points_and_scale_widths():
    sketch = parse_svg(svg(f'<g transform="translate(10 20) scale(2)"><path d="M0,0H10" {LINE}/></g>'))
    assert sketch.points * 72 == pytest.approx(np.array([[10, 20], [30, 20]]), abs=1e-4)
    assert sketch.widths == pytest.approx([4 / 72])


def test_a_view_box_that_is_not_square_is_centred():
    assert parse_svg(svg(f'<path d="M0,0H40" {LINE}/>', "0 0 40 20")).points == pytest.approx(
        np.array([[0, 0.25], [1, 0.25]]), abs=1e-6
    )
    sized = parse_svg(svg(f'<path d="M10,10H50" {LINE}/>', "10 10 40 20", 'width="400" height="200"'))
    assert sized.points == pytest.approx(np.array([[0, 0.25], [1, 0.25]]), abs=1e-6)


def test_a_filled_path_with_a_hole_is_one_shape_of_two_outlines():
    sketch = parse_svg(svg('<path d="M10,10h40v40h-40z M20,20v20h20v-20z"/><rect x="60" y="60" width="5" height="5"/>'))
    assert sketch.filled.tolist() == [1, 1, 2] and not sketch.widths.any()
    areas = [area(sketch.stroke(index)) * 72 * 72 for index in range(3)]
    assert areas == pytest.approx([1600, -400, 25], rel=1e-4)


def test_paint_that_is_no_ink_is_left_out():
    body = (
        f'<path d="M0,0H9" {LINE} display="none"/><g display="none"><path d="M0,0H9" {LINE}/></g>'
        f'<path d="M0,0H9" {LINE} opacity="0"/><path d="M0,0H9V9z" fill="#fff"/>'
        '<path d="M0,0H9V9z" fill-opacity="0"/><path d="M0,0H9" fill="none" stroke="#fce"/>'
        f'<path d="M1,1H5" style="fill:none;stroke:#000;stroke-width:2"/>'
    )
    sketch = parse_svg(svg(body))
    assert sketch.points * 72 == pytest.approx(np.array([[1, 1], [5, 1]]), abs=1e-4)


@pytest.mark.parametrize("text", ["", "no svg", "<svg", "<html></html>"])
def test_what_is_no_svg_is_a_value_error(text):
    with pytest.raises(ValueError, match="not a readable SVG"):
        parse_svg(text)


def test_a_picture_is_drawn_on_white_and_centred():
    pixels = render_svg(svg('<rect width="40" height="20" fill="#f00"/>', "0 0 40 20"), 16)
    assert pixels.shape == (16, 16, 3)
    assert (pixels[4:12] == [255, 0, 0]).all() and (pixels[:4] == 255).all() and (pixels[12:] == 255).all()
    tall = render_svg(svg('<rect width="20" height="40" fill="#f00"/>', "0 0 20 40"), 16)
    assert (tall == pixels.transpose(1, 0, 2)).all()


def test_child_processes_give_what_this_one_gives():
    texts = [svg(f'<circle cx="36" cy="36" r="{radius}" {LINE}/>') for radius in range(1, 8)]
    done = []
    many = parse_svgs(texts, done.append)
    assert [own.points.tolist() for own in many] == [parse_svg(text).points.tolist() for text in texts]
    pictures = render_svgs(texts, 24, done.append)
    assert (pictures == np.stack([render_svg(text, 24) for text in texts])).all()
    assert done == [7, 7]


def test_packed_sketches_come_back_as_they_were():
    sketches = [
        Sketch.from_strokes([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.5]]], [0.02, 0.03]),
        Sketch.from_strokes([], 0.1),
        Sketch.from_strokes([[[0, 0], [1, 0], [1, 1]]], 0.0, 1),
    ]
    arrays = pack_sketches(sketches)
    for original, found in zip(sketches, unpack_sketches(arrays), strict=True):
        for name in ("points", "offsets", "widths", "filled"):
            assert getattr(original, name).tolist() == getattr(found, name).tolist()
            assert getattr(original, name).dtype == getattr(found, name).dtype
    assert unpack_sketch(arrays, 2).filled.tolist() == [1]
    with pytest.raises(KeyError, match="sketch_widths"):
        unpack_sketches({name: value for name, value in arrays.items() if name != "sketch_widths"})


@pytest.mark.parametrize(
    ("strokes", "message"),
    [([[[0.0, 1.0]], []], "stroke 1"), ([[[0, 1, 2]]], "expected .points, 2."), ([[[0, math.nan]]], "not a finite")],
)
def test_broken_strokes_are_refused(strokes, message):
    with pytest.raises(ValueError, match=message):
        Sketch.from_strokes(strokes, 0.02)
