"""A query on the device, from the sketch to the photos: the answers of the same steps in Python."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compressor.data.sketch import Sketch, pack_sketches
from compressor.tasks.sketch.firmware import Capacity, request, write_index, write_student
from compressor.tasks.sketch.firmware.programs import hexadecimal
from compressor.tasks.sketch.index import Index
from compressor.tasks.sketch.raster import rasterise
from profiles.device import Device
from profiles.errors import RequestError
from profiles.storage import read_json, save_npz, sha256_tree, write_json
from targets.artifact import Artifact
from targets.c.runtime import CSession
from targets.firmware import Emulator, build, profile
from targets.firmware.query import program_writer
from targets.graph import Graph, TensorSpec
from targets.runners import get_runner
from tests.tools import need, need_module

CANVAS_PX, DEPTH, K = 8, 12, 4
SETTINGS = {"selector": {"kind": "fixed", "canvas_px": CANVAS_PX}, "normalise": {"mean": 0.1, "std": 0.7}}
GRAPH = f"encoder_{CANVAS_PX}"
GRAPH_SPEC = Graph(
    GRAPH,
    (TensorSpec("canvas", "float32", ("batch", 1, CANVAS_PX, CANVAS_PX)),),
    (TensorSpec("embedding", "float32", ("batch", DEPTH)),),
)
CORES = [
    pytest.param(core, marks=() if core in ("m3", "m4") else pytest.mark.slow) for core in ("m3", "m4", "m33", "m55")
]


def random_index(rng: np.random.Generator, rows: int, depth: int) -> Index:
    """With a few rows twice, so that equal scores happen."""
    embeddings = rng.standard_normal((rows, depth)).astype(np.float32)
    embeddings[rows // 2 : rows // 2 + 5] = embeddings[:5]
    return Index.build(embeddings, range(rows))


def random_sketches(count: int) -> list[Sketch]:
    """A line, a dot, and a line or a filled shape."""
    rng = np.random.default_rng(6)
    return [
        Sketch.from_strokes([rng.uniform(0, 1, (n, 2)) for n in (5, 1, 6)], rng.uniform(0, 0.3, 3), [0, 0, number % 2])
        for number in range(count)
    ]


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
    folder = path / "graphs" / GRAPH
    folder.mkdir(parents=True)
    write(generate(read_model(raw), "encoder"), folder)
    index = random_index(rng, 50, DEPTH)
    # a split of three sketches and its own gallery, beside the larger one that the device looks in
    arrays = {**pack_sketches(random_sketches(3)), "truth": np.arange(3), "gallery": index.codes[:3].astype(np.float32)}
    save_npz(path / "eval.npz", arrays)
    (path / "assets").mkdir()
    save_npz(path / "assets" / "gallery.npz", {"embeddings": index.codes.astype(np.float32)})
    session = CSession(GRAPH_SPEC, folder, "O2")
    canvases = {"canvas": np.stack([rasterise(sketch, CANVAS_PX) for sketch in random_sketches(4)])[:, None]}
    golden = {
        f"{GRAPH}/inputs/canvas": canvases["canvas"],
        f"{GRAPH}/outputs/embedding": session(canvases)["embedding"],
    }
    save_npz(path / "golden.npz", golden)
    entry = {
        **GRAPH_SPEC.to_json(), "status": "built", "reason": None, "precision": "int8", "notes": [], "options": {},
        "files": [f"graphs/{GRAPH}/{name}" for name in ("model.c", "model.h", "model.json")], "bytes": 1,
        "sha256": "0" * 64, "parity": None, "ran_on": None,
    }  # fmt: skip
    manifest = {
        "format": 1, "student": "toy", "task": "sketch", "glue": "sketch", "settings": SETTINGS,
        "uses": {"query": {GRAPH: 1}}, "inputs": "real", "random_weights": False, "has_metric": True,
        "teacher_values": {}, "device": "board", "runtime": "c", "runtime_version": "1", "precision_requested": "int8",
        "graphs": {GRAPH: entry}, "files": sha256_tree(path), "status": "built", "reason": None, "sha256": "0" * 64,
    }  # fmt: skip
    write_json(path / "artifact.json", manifest)
    return Artifact.open(path), index


def answers_in_python(student: tuple[Artifact, Index], sketches: list[Sketch]) -> list[np.ndarray]:
    """The same steps one by one: canvas, int8, the encoder's C compiled for this machine, the index."""
    artifact, index = student
    folder = artifact.files(GRAPH)[0].parent
    scale = read_json(folder / "model.json")["outputs"][0]["scale"]
    mean, std = np.float32(SETTINGS["normalise"]["mean"]), np.float32(SETTINGS["normalise"]["std"])
    canvases = np.stack([rasterise(sketch, CANVAS_PX) for sketch in sketches])[:, None]
    embeddings = CSession(GRAPH_SPEC, folder, "O2")({"canvas": (canvases - mean) / std})["embedding"]
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


def test_only_tasks_that_write_programs_have_one():
    assert program_writer("sketch") is not None
    assert program_writer("model") is None


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
