"""A query on the device, from the sketch to the photos: the answers of the same steps in Python."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.firmware import Capacity, request, write_index, write_student
from compressor.tasks.sketch.firmware.frames import hexadecimal
from compressor.tasks.sketch.index import Index
from compressor.tasks.sketch.raster import rasterise
from compressor.tasks.sketch.selector.features import stroke_statistics
from compressor.tasks.sketch.selector.glue import Scale
from profiles.device import Device
from profiles.errors import RequestError
from profiles.storage import read_json
from targets.artifact import Artifact
from targets.c.runtime import CSession
from targets.firmware import Emulator, build, profile
from targets.firmware.query import program_writer
from targets.runners import get_runner, qemu_system
from tests.compressor.sketch_toy import (
    DEPTH,
    NORMALISE,
    by_features,
    by_points,
    graph_of,
    random_index,
    random_sketches,
    write_toy,
)
from tests.tools import need, need_module

CANVAS_PX, K = 8, 4
FIXED = {"kind": "fixed", "canvas_px": CANVAS_PX}
GRAPH = f"encoder_{CANVAS_PX}"
CORES = [pytest.param(core, marks=() if core == "m4" else pytest.mark.slow) for core in ("m3", "m4", "m33", "m55")]


def split_answer(reply: bytes) -> tuple[np.ndarray, np.ndarray]:
    half = len(reply) // 2
    return np.frombuffer(reply[:half], np.int32), np.frombuffer(reply[half:], np.float32)


def check_answers(index: Index, queries: np.ndarray, zero_point: int, replies: list[bytes]) -> None:
    """Rows and their order are the same; a score is the cosine times the query's length."""
    for query, reply in zip(queries.astype(np.int16) - zero_point, replies, strict=True):
        rows, scores = split_answer(reply)
        found, cosines = index.search(query, len(rows))
        assert rows.tolist() == found.tolist()
        assert scores == pytest.approx(cosines * np.linalg.norm(query.astype(float)), rel=1e-5, abs=1e-6)


def queries_of(depth: int, zero_point: int) -> np.ndarray:
    """Random ones, both ends of int8, and one that is zero: every photo is equally near."""
    rng = np.random.default_rng(1)
    constants = [np.full(depth, value, np.int8) for value in (-128, 127, zero_point)]
    return np.stack([*constants, *rng.integers(-128, 128, (12, depth)).astype(np.int8)])


@pytest.mark.parametrize(("rows", "depth", "k"), [(37, 64, 5), (20, 7, 30), (1, 1, 1)])
def test_the_index_in_c_finds_the_same_photos_in_the_same_order(rows, depth, k, tmp_path):
    need("gcc")
    index, zero_point = random_index(np.random.default_rng(0), rows, depth), -9
    write_index(tmp_path, index, k, zero_point)
    command = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "model.c", "-o", "index.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    library, about = ctypes.CDLL(str(tmp_path / "index.so")), read_json(tmp_path / "model.json")
    library.sketch_input.restype = library.sketch_output.restype = ctypes.c_void_p
    queries, replies = queries_of(depth, zero_point), []
    for query in queries:
        ctypes.memmove(library.sketch_input(0), query.tobytes(), depth)
        library.sketch_run()
        parts = [ctypes.string_at(library.sketch_output(i), port["bytes"]) for i, port in enumerate(about["outputs"])]
        replies.append(b"".join(parts))
    check_answers(index, queries, zero_point, replies)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("depth", [64, 7])  # 7: no multiple of what the fast forms take at once
def test_the_index_on_an_emulated_core_finds_the_same_photos_in_the_same_order(core, depth, tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc")
    index, zero_point = random_index(np.random.default_rng(0), 37, depth), 100
    firmware = build(write_index(tmp_path / "model", index, 6, zero_point), core, "O2", tmp_path / core)
    queries = queries_of(depth, zero_point)
    with Emulator(firmware) as board:
        check_answers(index, queries, zero_point, [board.ask(query.tobytes()) for query in queries])


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> tuple[Artifact, Index]:
    """One canvas, one encoder."""
    need("gcc")
    need_module("ai_edge_litert")
    return write_toy(tmp_path_factory.mktemp("artifact"), [CANVAS_PX], FIXED)


def answers_in_python(student: tuple[Artifact, Index], sketches: list[Sketch]) -> list[np.ndarray]:
    """The same steps one by one: canvas, int8, the encoder's C compiled for this machine, the index."""
    artifact, index = student
    folder = artifact.files(GRAPH)[0].parent
    scale = read_json(folder / "model.json")["outputs"][0]["scale"]
    mean, std = np.float32(NORMALISE["mean"]), np.float32(NORMALISE["std"])
    canvases = np.stack([rasterise(sketch, CANVAS_PX) for sketch in sketches])[:, None]
    embeddings = CSession(graph_of(CANVAS_PX), folder, "O2")({"canvas": (canvases - mean) / std})["embedding"]
    steps = np.rint(embeddings / np.float32(scale)).astype(np.int16)
    return [index.search(own, K)[0] for own in steps]


@pytest.mark.parametrize("core", CORES)
def test_the_whole_query_on_an_emulated_core_answers_as_the_steps_do_in_python(core, student, tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    artifact, index = student
    sketches, capacity = random_sketches(16), Capacity(points=40, strokes=4)
    firmware = build(write_student(tmp_path / "model", artifact, index, capacity, K), core, "O2", tmp_path / core)
    found = profile(firmware, [request(sketch, capacity) for sketch in sketches])
    rows = [split_answer(reply)[0].tolist() for reply in found.outputs]
    assert rows == [answer.tolist() for answer in answers_in_python(student, sketches)]
    assert len({tuple(own) for own in rows}) > 4
    assert found.instructions is not None and len(set(found.instructions)) > 4  # drawing depends on the sketch


@pytest.mark.parametrize(
    ("measure", "combine"),
    [("margin", "first"), ("entropy", "all"), pytest.param("margin", "last", marks=pytest.mark.slow)],
)
def test_a_cascade_looks_again_where_the_glue_does_and_finds_what_it_finds(measure, combine, tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    need_module("ai_edge_litert")
    canvases = [8, 16, 24]
    thresholds = [0.1, 0.2] if measure == "margin" else [-0.5, -0.2]
    selector = {"kind": "cascade", "canvases": canvases, "thresholds": thresholds, "measure": measure}
    artifact, index = write_toy(tmp_path, canvases, {**selector, "combine": combine})
    sketches, capacity = random_sketches(24), Capacity(points=40, strokes=4)
    firmware = build(write_student(tmp_path / "model", artifact, index, capacity), "m4", "O2", tmp_path / "m4")
    found = profile(firmware, [request(sketch, capacity) for sketch in sketches])
    largest = max(read_json(artifact.files(f"encoder_{px}")[0].parent / "model.json")["arena_bytes"] for px in canvases)
    assert firmware.arena_bytes == largest, "encoders run one after the other"
    student = artifact.student()
    answers = [student(sketch) for sketch in sketches]
    looks = np.array([canvases.index(answer.canvas_px) for answer in answers])
    assert set(looks) == {0, 1, 2}
    # each further look costs more than all that differs between sketches
    assert found.instructions is not None
    ranges = [np.array(found.instructions)[looks == number] for number in range(3)]
    assert ranges[0].max() < ranges[1].min() and ranges[1].max() < ranges[2].min()
    rows = [split_answer(reply)[0] for reply in found.outputs]
    assert sum(own[0] == answer.indices[0] for own, answer in zip(rows, answers, strict=True)) >= 23


@pytest.mark.parametrize("kind", ["statistics", "gate", "gru"])
def test_a_selector_with_a_network_chooses_on_the_core_as_in_the_glue(kind, tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    need_module("ai_edge_litert")
    canvases, sketches, capacity = [8, 16, 24], random_sketches(40), Capacity(points=40, strokes=4)
    selector: dict = {"kind": kind, "canvases": canvases, "tolerance": 0.02, "combine": "first"}
    if kind == "gru":
        # of 12 points the drawing has to be brought to fewer
        selector, network = {**selector, "points": 9, "hidden": 6}, by_points(6, 3)
    else:
        features = np.stack([stroke_statistics(sketch, 0.02) for sketch in sketches])
        if kind == "gate":
            features = np.concatenate([np.linspace(0, 1, 200).reshape(40, 5), features], axis=1)
        selector, network = {**selector, **Scale.of(features).to_settings()}, by_features(features.shape[1], 3)
    artifact, index = write_toy(tmp_path, canvases, selector, [network])
    firmware = build(write_student(tmp_path / "model", artifact, index, capacity), "m4", "O2", tmp_path / "m4")
    found = profile(firmware, [request(sketch, capacity) for sketch in sketches])
    student = artifact.student()
    answers = [student(sketch) for sketch in sketches]
    looks = np.array([answer.canvas_px for answer in answers])
    assert len(set(looks)) > 1
    rows = [split_answer(reply)[0] for reply in found.outputs]
    assert sum(own[0] == answer.indices[0] for own, answer in zip(rows, answers, strict=True)) >= 38
    if kind == "gate":  # a second look costs more than all that differs between sketches
        assert found.instructions is not None
        counts = np.array(found.instructions)
        assert counts[looks == 8].max() < counts[looks > 8].min()


def test_a_query_of_the_measured_student_is_the_whole_program_with_its_glue(student):
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    artifact, index = student
    board = Device.model_validate(
        {
            "name": "board", "class": "wearable", "summary": "a board", "runtimes": {"c": {"precisions": ["int8"]}},
            "memory": {}, "emulator": {"kind": "qemu_system", "core": "m4"},
        }
    )  # fmt: skip
    found = get_runner("qemu_system").measure(artifact, board)
    query, encoder = found.cost("*"), found.cost(GRAPH)
    assert query is not None and encoder is not None and query.source == "counted"
    # at the least: every pixel is zeroed and seen, every code of the gallery multiplied
    assert query.value > encoder.value + 2 * CANVAS_PX**2 + index.codes.size
    together, alone = found.memory("*"), found.memory(GRAPH)
    assert together.flash > alone.flash + index.codes.nbytes and together.arena == alone.arena
    assert together.ram > alone.ram + 8 * CANVAS_PX**2
    assert found.whole is not None and found.whole["queries"] == found.whole["agreed"] == 3
    notes = Artifact.open(artifact.path).manifest["graphs"][GRAPH]["notes"]
    assert any("3 of 3 answers are those of the student's glue" in note for note in notes)


def test_a_query_that_is_not_written_as_a_program_says_so(student, monkeypatch):
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")

    def refuse(*_: object) -> None:
        raise RequestError("not for this selector")

    monkeypatch.setattr(qemu_system, "program_writer", lambda glue: refuse)
    report, _ = qemu_system.measure_emulated(str(student[0].path), "m4", 4096, None, None, 60.0, {})
    assert report["whole"] is None
    assert any("without the glue's: not for this selector" in note for note in report["graphs"][GRAPH]["notes"])


def test_only_tasks_that_write_programs_have_one():
    assert program_writer("sketch") is not None
    assert program_writer("model") is None


def test_a_student_that_has_no_such_program_is_refused(student, tmp_path):
    artifact, index = student
    other = Artifact(artifact.path, {**artifact.manifest, "settings": {"selector": {"kind": "dice"}}})
    with pytest.raises(RequestError, match="not for c and dice"):
        write_student(tmp_path / "dice", other, index, Capacity())
    narrow = Index(index.codes[:, :5], index.labels)
    with pytest.raises(RequestError, match="rows of 5"):
        write_student(tmp_path / "narrow", artifact, narrow, Capacity())


def test_numbers_go_into_c_exactly():
    for number in (0.1, 1 / 3, 2.0**-140, 0.0, -7.25):
        assert np.float32(float.fromhex(hexadecimal(number))) == np.float32(number)


def test_flash_holds_the_gallery_once(student, tmp_path: Path):
    need("arm-none-eabi-gcc")
    _, index = student
    sizes = []
    for rows in (10, 50):
        part = Index(index.codes[:rows], index.labels[:rows])
        firmware = build(write_index(tmp_path / str(rows), part, K, 0), "m4", "O2", tmp_path / f"m4-{rows}")
        sizes.append(firmware.flash_bytes)
    assert sizes[1] - sizes[0] == pytest.approx(40 * (DEPTH + 4), abs=8)
