"""The rasteriser in C draws the reference's bits, here and on emulated cores; what it costs is counted."""

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compressor.data.pairs import load_pairs
from compressor.data.sketch import Sketch
from compressor.data.svg import parse_svg
from compressor.tasks.sketch.firmware import SOURCES, Capacity, request, write_raster
from compressor.tasks.sketch.raster import draw_reference, rasterise
from compressor.tasks.sketch.raster_cost import FLOPS, RasterCost, raster_cost, raster_flops, raster_macs
from compressor.tasks.sketch.simplify import simplify
from profiles.errors import MissingError, RequestError
from targets.firmware import Emulator, build, count_instructions
from tests.compressor.test_sketch_raster import FACE
from tests.tools import need

WRAPPER = """#include "raster.h"
void draw(const float *points, const int32_t *offsets, const float *widths, const int32_t *filled, int32_t strokes,
          int32_t size, float minimum_width_px, float *canvas, float *edge, int16_t *winding) {
  const struct sketch sketch = {points, offsets, widths, filled, strokes};
  const struct raster raster = {size, canvas, edge, winding};
  raster_draw(&sketch, minimum_width_px, &raster);
}
"""
SIMPLIFY = """#include "simplify.h"
void run(float *points, int32_t *offsets, const int32_t *filled, int32_t strokes, float tolerance, uint8_t *keep,
         int16_t *parts) {
  const struct simplifier memory = {keep, parts};
  simplify(points, offsets, filled, strokes, tolerance, &memory);
}
"""
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


@pytest.fixture(scope="module", params=["-O0", "-O3"])
def draw_in_c(request, tmp_path_factory):
    """raster.h compiled by gcc for this machine."""
    need("gcc")
    folder = tmp_path_factory.mktemp("raster")
    (folder / "draw.c").write_text(WRAPPER)
    command = ["gcc", "-std=c99", request.param, "-ffp-contract=off", *WARNINGS, "-shared", "-fPIC", f"-I{SOURCES}"]
    subprocess.run([*command, "draw.c", "-o", "draw.so", "-lm"], cwd=folder, check=True)
    function = ctypes.CDLL(str(folder / "draw.so")).draw

    def draw(sketch: Sketch, canvas_px: int, minimum_width_px: float = 1.0) -> np.ndarray:
        canvas = np.zeros((canvas_px, canvas_px), np.float32)
        edge, winding = np.full_like(canvas, np.nan), np.full((canvas_px, canvas_px + 1), 99, np.int16)
        fields = [
            np.ascontiguousarray(sketch.points, np.float32),
            np.ascontiguousarray(sketch.offsets, np.int32),
            np.ascontiguousarray(sketch.widths, np.float32),
            np.ascontiguousarray(sketch.filled, np.int32),
        ]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*fields, canvas, edge, winding)]
        function(*pointers[:4], len(sketch), canvas_px, ctypes.c_float(minimum_width_px), *pointers[4:])
        return canvas

    return draw


def random_sketch(rng: np.random.Generator) -> Sketch:
    """Lines, dots, filled shapes that cross themselves and have holes; on and far off the canvas; on a grid."""
    low = rng.choice([-0.2, 0.4, -3.0, -1e4])
    strokes = [rng.uniform(low, 1 - low, (rng.integers(1, 9), 2)) for _ in range(rng.integers(1, 9))]
    if rng.random() < 0.3:
        strokes = [np.round(stroke * rng.choice([8, 24, 48])) / 24 for stroke in strokes]
    count = len(strokes)
    widths = rng.uniform(0, rng.choice([0.02, 0.1, 0.6]), count)
    return Sketch.from_strokes(strokes, widths, rng.integers(0, 4, count) * rng.integers(0, 2, count))


def reference(sketch: Sketch, canvas_px: int, minimum_width_px: float = 1.0) -> np.ndarray:
    canvas = np.zeros((canvas_px, canvas_px), np.float32)
    draw_reference(sketch.points, sketch.offsets, sketch.widths, sketch.filled, minimum_width_px, canvas)
    return canvas


def test_random_sketches_have_the_references_bits(draw_in_c):
    rng = np.random.default_rng(0)
    for _ in range(300):
        sketch, canvas_px = random_sketch(rng), int(rng.choice([1, 7, 24, 32, 33, 96]))
        minimum = float(rng.choice([0.0, 1.0, 2.3]))
        assert draw_in_c(sketch, canvas_px, minimum).tobytes() == rasterise(sketch, canvas_px, minimum).tobytes()


def test_the_kernel_has_the_references_bits_on_them_too():
    rng = np.random.default_rng(0)
    for _ in range(60):
        sketch, canvas_px, minimum = random_sketch(rng), int(rng.choice([1, 7, 32])), float(rng.choice([0.0, 1.0, 2.3]))
        assert rasterise(sketch, canvas_px, minimum).tobytes() == reference(sketch, canvas_px, minimum).tobytes()


def test_real_drawings_have_the_references_bits(draw_in_c):
    need("npm")
    try:
        pairs = load_pairs("openmoji")
    except MissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    for number in range(0, len(pairs), 5):
        sketch, canvas_px = pairs.sketch(number), (24, 32, 48, 64)[number % 4]
        assert draw_in_c(sketch, canvas_px).tobytes() == rasterise(sketch, canvas_px).tobytes()


@pytest.mark.parametrize(
    "core", ["m3", "m4", *(pytest.param(core, marks=pytest.mark.slow) for core in ("m7", "m33", "m55"))]
)
def test_an_emulated_core_draws_the_references_bits_with_and_without_floating_point_hardware(core, tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc")
    capacity, rng = Capacity(points=512, strokes=16), np.random.default_rng(5)
    firmware = build(write_raster(tmp_path / "model", 24, capacity), core, "O2", tmp_path / core)
    with Emulator(firmware) as board:
        for sketch in [parse_svg(FACE), Sketch.from_strokes([], 0.1), *(random_sketch(rng) for _ in range(12))]:
            assert board.ask(request(sketch, capacity)) == rasterise(sketch, 24).tobytes()
    assert board.stack_bytes is not None and board.stack_bytes < 512


def test_a_simplified_sketch_has_the_bits_of_its_simplification_in_python(tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc")
    capacity, rng = Capacity(points=512, strokes=16), np.random.default_rng(7)
    firmware = build(write_raster(tmp_path / "model", 24, capacity, tolerance=0.02), "m4", "O2", tmp_path / "m4")
    sketches = [parse_svg(FACE), *(random_sketch(rng) for _ in range(12))]
    with Emulator(firmware) as board:
        replies = [board.ask(request(sketch, capacity)) for sketch in sketches]
    assert replies == [rasterise(simplify(sketch, 0.02), 24).tobytes() for sketch in sketches]


def test_random_and_real_shapes_keep_the_same_points_in_c(simplify_in_c):
    rng = np.random.default_rng(8)
    for _ in range(150):
        strokes = [np.cumsum(rng.normal(0, 0.05, (rng.integers(1, 60), 2)), axis=0) for _ in range(3)]
        if rng.random() < 0.4:  # points that are equally far, and the same point twice
            strokes = [np.round(stroke * 8) / 8 for stroke in strokes]
        sketch = Sketch.from_strokes(strokes, 0.05, rng.integers(0, 3, 3))
        for tolerance in (0.0, 0.02, 5.0):
            expected = simplify(sketch, tolerance)
            points, offsets = simplify_in_c(sketch, tolerance)
            assert points.tobytes() == expected.points.tobytes() and offsets.tolist() == expected.offsets.tolist()


@pytest.fixture(scope="module")
def simplify_in_c(tmp_path_factory):
    """simplify.h compiled by gcc for this machine: the remaining points, and offsets."""
    need("gcc")
    folder = tmp_path_factory.mktemp("simplify")
    (folder / "simplify.c").write_text(SIMPLIFY)
    command = ["gcc", "-std=c99", "-O2", "-ffp-contract=off", *WARNINGS, "-Wno-unused-function", "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{SOURCES}", "simplify.c", "-o", "simplify.so", "-lm"], cwd=folder, check=True)
    function = ctypes.CDLL(str(folder / "simplify.so")).run

    def run(sketch: Sketch, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        points, offsets = sketch.points.copy(), sketch.offsets.astype(np.int32)
        filled = sketch.filled.astype(np.int32)
        keep, parts = np.zeros(len(points) + 1, np.uint8), np.zeros(2 * len(points) + 2, np.int16)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (points, offsets, filled, keep, parts)]
        function(*pointers[:3], len(sketch), ctypes.c_float(tolerance), *pointers[3:])
        return points[: offsets[-1]], offsets

    return run


def test_instructions_follow_the_counted_operations(tmp_path):
    # a core with a floating point unit: some instructions per operation (loads, branches), and zeroing the canvas
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    capacity = Capacity(points=64, strokes=8)
    firmware = build(write_raster(tmp_path / "model", 32, capacity), "m4", "O2", tmp_path / "m4")
    rng = np.random.default_rng(2)
    sketches = [Sketch.from_strokes([], 0.1)]
    sketches += [Sketch.from_strokes([rng.uniform(0, 1, (count, 2))], 0.03) for count in (2, 8, 32, 64)]
    counts = count_instructions(firmware, [request(sketch, capacity) for sketch in sketches])
    flops = [raster_flops(sketch, 32) for sketch in sketches]
    assert flops[0] == 0 and counts[0] < 6000
    assert all(1 < (count - counts[0]) / own < 4 for count, own in zip(counts[1:], flops[1:], strict=True))


def test_a_sketch_that_the_program_has_no_room_for_is_refused():
    sketch = Sketch.from_strokes([[[0.1, 0.1]] * 9], 0.1)
    with pytest.raises(RequestError, match="9 points in 1 strokes: the firmware has room for 8 in 4"):
        request(sketch, Capacity(points=8, strokes=4))
    assert len(request(sketch, Capacity(points=9, strokes=1))) == 9 * 8 + 2 * 4 + 4 + 4 + 4


def test_a_horizontal_line_costs_what_a_count_by_hand_gives():
    # from (2.5, 3.5) to (5.5, 3.5), 1 px wide: centres within 1 px in x and y: columns 1.5 to 6.5, rows 2.5 to 4.5
    sketch = Sketch.from_strokes([[[2.5 / 8, 3.5 / 8], [5.5 / 8, 3.5 / 8]]], 1 / 8)
    assert raster_cost(sketch, 8) == RasterCost(strokes=1, segments=1, rows=3, pixels=18)
    assert raster_flops(sketch, 8) == 6 + 30 + 3 * 8 + 18 * 13 == 2 * raster_macs(sketch, 8)


def test_a_long_diagonal_is_looked_at_near_its_line_only():
    # the band |x - y| <= sqrt(2) of 64 rows: at most 2 sqrt(2) + 1 columns each, against 64 x 64 of its box
    cost = raster_cost(Sketch.from_strokes([[[0, 0], [1, 1]]], 1 / 64), 64)
    assert cost.slanted_segments == 1 and cost.slanted_rows == cost.rows == 64
    assert 64 * 2 < cost.pixels <= 64 * (2 * 2**0.5 + 1)


def test_a_filled_square_costs_its_outline_its_crossings_and_its_box():
    # from 2 to 6 on 8 px: four edges; the centres of four rows are crossed twice; the box is one pixel wider
    square = np.array([[2, 2], [6, 2], [6, 6], [2, 6]]) / 8
    cost = raster_cost(Sketch.from_strokes([square], 0.0, [1]), 8)
    # centres within 1/2 px of an edge: 2.5 to 5.5 along it, and beside it 1.5 and 2.5 (or 5.5 and 6.5)
    assert cost == RasterCost(
        strokes=1,
        segments=4,
        rows=2 * 2 + 2 * 6,
        pixels=4 * 12,
        edges=4,
        crossings=8,
        shapes=1,
        box_points=4,
        box_pixels=36,
    )
    assert cost.flops == sum(FLOPS[name] * count for name, count in vars(cost).items())


def test_every_inked_pixel_was_looked_at():
    rng = np.random.default_rng(4)
    for _ in range(20):
        sketch = Sketch.from_strokes([rng.uniform(0, 1, (5, 2))], 0.05)
        assert raster_cost(sketch, 32).pixels >= (rasterise(sketch, 32) > 0).sum()


def test_the_header_stands_alone(tmp_path: Path):
    need("gcc")
    (tmp_path / "two.c").write_text('#include "raster.h"\n#include "raster.h"\nint main(void) { return 0; }\n')
    subprocess.run(["gcc", "-std=c99", "-pedantic", f"-I{SOURCES}", "two.c", "-lm"], cwd=tmp_path, check=True)
