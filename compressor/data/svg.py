"""SVG files: to strokes (svgelements), to pixels (resvg)."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from compressor.data.sketch import Sketch
from profiles.errors import require

# Largest distance of a polyline to its curve, as a fraction of the drawing's side. At 32 px that is 0.07 px.
TOLERANCE = 0.15 / 72


def parse_svg(text: str, tolerance: float = TOLERANCE) -> Sketch:
    """Strokes of an SVG drawing, its view box centred in the unit square.

    Dark strokes become lines of their own width, dark fills become filled outlines; paint that is light, fully
    transparent or hidden is not ink and hides nothing. Line caps and joins count as round. Raises ValueError when
    the text is not an SVG.
    """
    svgelements = require("svgelements", "train")
    try:
        svg = svgelements.SVG.parse(io.StringIO(text), width=1.0, height=1.0, reify=False)
    except Exception as error:  # ParseError, but also KeyError, ValueError... on odd attributes
        raise ValueError(f"not a readable SVG ({type(error).__name__}: {error})") from None
    if not isinstance(svg, svgelements.SVG):
        raise ValueError("not a readable SVG (its outermost element is no <svg>)")
    width, height = float(svg.width), float(svg.height)
    if not (width > 0 and height > 0):
        raise ValueError("not a readable SVG (it has no area)")
    side = max(width, height)
    shift = np.array([(side - width) / 2, (side - height) / 2])
    strokes: list[np.ndarray] = []
    widths: list[float] = []
    filled: list[int] = []
    for element in svg.elements():
        if not isinstance(element, svgelements.Shape) or _hidden(element):
            continue
        outlines = [(line + shift) / side for line in _polylines(svgelements, element, tolerance * side)]
        if not outlines:
            continue
        if _is_ink(element.fill, element.values.get("fill-opacity")):
            shape = max(filled, default=0) + 1
            outlines_with_area = [line for line in outlines if len(line) > 2]
            strokes += outlines_with_area
            widths += [0.0] * len(outlines_with_area)
            filled += [shape] * len(outlines_with_area)
        line_width = float(element.implicit_stroke_width or 0) / side
        if line_width > 0 and _is_ink(element.stroke, element.values.get("stroke-opacity")):
            strokes += outlines
            widths += [line_width] * len(outlines)
            filled += [0] * len(outlines)
    return Sketch.from_strokes(strokes, widths, filled)


def render_svg(text: str, size_px: int) -> np.ndarray:
    """Draw an SVG on white, its view box centred in a square. Returns (size_px, size_px, 3) uint8."""
    resvg = require("resvg_py", "train")
    image = require("PIL.Image", "train")
    # Only one side is given, so the picture keeps its shape whatever that is.
    png = resvg.svg_to_bytes(svg_string=text, width=size_px, background="#ffffff", skip_system_fonts=True)
    picture = image.open(io.BytesIO(bytes(png))).convert("RGB")
    if picture.height > size_px:
        png = resvg.svg_to_bytes(svg_string=text, height=size_px, background="#ffffff", skip_system_fonts=True)
        picture = image.open(io.BytesIO(bytes(png))).convert("RGB")
    pixels = np.full((size_px, size_px, 3), 255, np.uint8)
    top, left = (size_px - picture.height) // 2, (size_px - picture.width) // 2
    pixels[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return pixels


def _hidden(element: Any) -> bool:
    values = element.values
    if values.get("display") == "none" or values.get("visibility") in ("hidden", "collapse"):
        return True
    return _number(values.get("opacity"), 1.0) == 0


def _number(text: Any, default: float) -> float:
    if text is None:
        return default
    text = str(text).strip()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _is_ink(color: Any, opacity: Any) -> bool:
    if color is None or color.value is None or _number(opacity, 1.0) == 0 or color.alpha == 0:
        return False
    return 0.299 * color.red + 0.587 * color.green + 0.114 * color.blue < 128


def _polylines(svgelements: Any, element: Any, tolerance: float) -> list[np.ndarray]:
    """The subpaths of a shape as polylines (n, 2) in the drawing's coordinates; lone points are kept as dots."""
    path = abs(svgelements.Path(element))
    lines: list[np.ndarray] = []
    current: list[np.ndarray] = []
    for segment in path:
        if isinstance(segment, svgelements.Move):
            _finish(lines, current)
            current = [_xy([segment.end])]
            continue
        if not current:  # after a Close, drawing goes on from where the subpath began
            current = [_xy([segment.start])]
        current.append(_flatten(svgelements, segment, tolerance))
        if isinstance(segment, svgelements.Close):
            _finish(lines, current)
            current = []
    _finish(lines, current)
    return lines


def _finish(lines: list[np.ndarray], parts: list[np.ndarray]) -> None:
    if len(parts) > 1:  # a Move alone draws nothing
        lines.append(np.concatenate(parts))


def _xy(points: Any) -> np.ndarray:
    return np.array([(point.x, point.y) for point in points], np.float64)


def _flatten(svgelements: Any, segment: Any, tolerance: float) -> np.ndarray:
    """The points of a segment after its start, so close that no chord leaves the curve by more than `tolerance`."""
    if isinstance(segment, svgelements.CubicBezier):
        control = _xy([segment.start, segment.control1, segment.control2, segment.end])
    elif isinstance(segment, svgelements.QuadraticBezier):
        control = _xy([segment.start, segment.control, segment.end])
    elif isinstance(segment, svgelements.Arc):
        radius = max(segment.rx, segment.ry, tolerance)
        step = 2 * math.acos(max(1 - tolerance / radius, -1.0))
        count = max(math.ceil(abs(segment.sweep) / step), 2)
        return np.asarray(segment.npoint(np.arange(1, count + 1) / count), np.float64)
    else:
        return _xy([segment.end])
    # A chord leaves a curve whose second derivative is at most m by at most m / (8 n^2); for a Bezier curve of
    # degree d that is d (d - 1) times the largest second difference of its control points.
    degree = len(control) - 1
    bend = np.linalg.norm(np.diff(control, n=2, axis=0), axis=1).max() * degree * (degree - 1)
    count = max(math.ceil(math.sqrt(bend / (8 * tolerance))), 1)
    t = (np.arange(1, count + 1) / count)[:, None]
    while len(control) > 1:  # de Casteljau, all parameters at once
        if control.ndim == 2:
            control = np.repeat(control[:, None, :], count, axis=1)
        control = (1 - t) * control[:-1] + t * control[1:]
    return control[0]
