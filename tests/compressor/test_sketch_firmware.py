"""A query on the device, from the sketch to the photos: the answers of the same steps in Python."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.firmware import Capacity, request
from compressor.tasks.sketch.firmware.programs import hexadecimal, write_index, write_student
from compressor.tasks.sketch.index import Index
from compressor.tasks.sketch.raster import rasterise
from profiles.errors import RequestError
from profiles.storage import read_json
from targets.artifact import Artifact
from targets.firmware import Emulator, build, profile
from tests.tools import need, need_module

CANVAS_PX, DEPTH, K = 8, 12, 4
SETTINGS = {"selector": {"kind": "fixed", "canvas_px": CANVAS_PX}, "normalise": {"mean": 0.1, "std": 0.7}}
CORES = [
    pytest.param(core, marks=() if core in ("m3", "m4") else pytest.mark.slow) for core in ("m3", "m4", "m33", "m55")
]


def random_index(rng: np.random.Generator, rows: int, depth: int) -> Index:
    """With a few rows twice, so that equal scores happen."""
    embeddings = rng.standard_normal((rows, depth)).astype(np.float32)
    embeddings[rows // 2 : rows // 2 + 5] = embeddings[:5]
    return Index.build(embeddings, range(rows))


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
    """A student whose encoder is one matrix, as generated C, and a gallery of random photos."""
    need_module("ai_edge_litert")
    from targets.c.generate import generate, write
    from targets.tflite.schema import read_model
    from tests.targets.tflite_builder import Spec
    from tests.targets.tflite_builder import build as build_tflite

    rng = np.random.default_rng(3)
    pixels = CANVAS_PX * CANVAS_PX
    canvas = Spec((1, pixels), scale=0.0057, zero_point=-103)
    weights = Spec((DEPTH, pixels), scale=0.01, data=rng.integers(-127, 128, (DEPTH, pixels)).astype(np.int8))
    embedding = Spec((1, DEPTH), scale=0.05, zero_point=11)
    raw = build_tflite("FULLY_CONNECTED", [canvas, weights, None], [embedding])
    path = tmp_path_factory.mktemp("artifact")
    folder = path / "graphs" / f"encoder_{CANVAS_PX}"
    folder.mkdir(parents=True)
    write(generate(read_model(raw), "encoder"), folder)
    files = [f"graphs/encoder_{CANVAS_PX}/model.c"]
    graphs = {f"encoder_{CANVAS_PX}": {"files": files}}
    manifest = {"student": "toy", "runtime": "c", "settings": SETTINGS, "graphs": graphs}
    return Artifact(path, manifest), random_index(rng, 50, DEPTH)


def answers_in_python(student: tuple[Artifact, Index], sketches: list[Sketch]) -> list[np.ndarray]:
    """The same steps one by one: canvas, int8, the encoder's C compiled for this machine, the index."""
    from targets.c.runtime import CSession
    from targets.graph import Graph, TensorSpec

    artifact, index = student
    folder = artifact.files(f"encoder_{CANVAS_PX}")[0].parent
    port = read_json(folder / "model.json")["outputs"][0]
    names = [read_json(folder / "model.json")[key][0]["name"] for key in ("inputs", "outputs")]
    specs = [TensorSpec(names[0], "float32", ("batch", 64)), TensorSpec(names[1], "float32", ("batch", DEPTH))]
    session = CSession(Graph("encoder", (specs[0],), (specs[1],)), folder, "O2")
    mean, std = np.float32(SETTINGS["normalise"]["mean"]), np.float32(SETTINGS["normalise"]["std"])
    canvases = np.stack([rasterise(sketch, CANVAS_PX) for sketch in sketches]).reshape(len(sketches), -1)
    embeddings = session({names[0]: (canvases - mean) / std})[names[1]]
    steps = np.rint(embeddings / np.float32(port["scale"])).astype(np.int16)
    return [index.search(own, K)[0] for own in steps]


@pytest.mark.parametrize("core", CORES)
def test_the_whole_query_on_an_emulated_core_answers_as_the_steps_do_in_python(core, student, tmp_path):
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    artifact, index = student
    rng, capacity = np.random.default_rng(6), Capacity(points=40, strokes=4)
    sketches = [
        Sketch.from_strokes([rng.uniform(0, 1, (n, 2)) for n in (5, 1, 6)], rng.uniform(0, 0.3, 3), [0, 0, filled])
        for filled in (0, 1) * 8
    ]
    firmware = build(write_student(tmp_path / "model", artifact, index, capacity, K), core, "O2", tmp_path / core)
    found = profile(firmware, [request(sketch, capacity) for sketch in sketches])
    rows = [split_answer(reply)[0].tolist() for reply in found.outputs]
    assert rows == [answer.tolist() for answer in answers_in_python(student, sketches)]
    assert len({tuple(own) for own in rows}) > 4
    assert found.instructions is not None and len(set(found.instructions)) > 4  # drawing depends on the sketch


def test_a_student_that_has_no_such_program_is_refused(student, tmp_path):
    artifact, index = student
    other = Artifact(artifact.path, {**artifact.manifest, "settings": {"selector": {"kind": "gru"}}})
    with pytest.raises(RequestError, match="fixed canvas, not of gru"):
        write_student(tmp_path / "gru", other, index, Capacity())
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
