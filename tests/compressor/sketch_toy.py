"""A sketch student for microcontrollers whose encoders are one matrix each, as generated C, and its random gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.sketch import Sketch, pack_sketches
from compressor.tasks.sketch.index import Index
from compressor.tasks.sketch.raster import rasterise
from profiles.storage import save_npz, sha256_tree, write_json
from targets.artifact import Artifact
from targets.c.runtime import CSession
from targets.graph import Graph, TensorSpec

DEPTH, PHOTOS, QUERIES = 12, 50, 3
NORMALISE = {"mean": 0.1, "std": 0.7}


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


def graph_of(canvas_px: int) -> Graph:
    """The graph of the encoder for one canvas."""
    canvas = TensorSpec("canvas", "float32", ("batch", 1, canvas_px, canvas_px))
    return Graph(f"encoder_{canvas_px}", (canvas,), (TensorSpec("embedding", "float32", ("batch", DEPTH)),))


def write_toy(
    path: Path, canvases: Sequence[int], selector: Mapping[str, Any], networks: Sequence[tuple[Graph, bytes]] = ()
) -> tuple[Artifact, Index]:
    """The artifact, with three sketches to validate on, and the gallery that its device looks in.

    `networks`: of a selector, with their .tflite files."""
    rng = np.random.default_rng(3)
    index = random_index(rng, PHOTOS, DEPTH)
    # the split has a gallery of its own, beside the larger one that the device looks in
    gallery = index.codes.astype(np.float32)
    arrays = {**pack_sketches(random_sketches(QUERIES)), "truth": np.arange(QUERIES), "gallery": gallery[:QUERIES]}
    save_npz(path / "eval.npz", arrays)
    (path / "assets").mkdir()
    save_npz(path / "assets" / "gallery.npz", {"embeddings": gallery})
    golden: dict[str, np.ndarray] = {}
    entries = {}
    for number, px in enumerate(canvases):
        graph = graph_of(px)
        folder = path / "graphs" / graph.name
        _write_encoder(folder, px, graph.name, 11 - 20 * number, rng)
        drawn = np.stack([rasterise(sketch, px) for sketch in random_sketches(4)])[:, None]
        golden[f"{graph.name}/inputs/canvas"] = drawn
        golden[f"{graph.name}/outputs/embedding"] = CSession(graph, folder, "O2")({"canvas": drawn})["embedding"]
        entries[graph.name] = _entry(graph)
    for graph, model in networks:
        _write_network(path / "graphs" / graph.name, graph.name, model)
        feeds = {spec.name: np.zeros(spec.concrete(batch=2), np.float32) for spec in graph.inputs}
        outputs = CSession(graph, path / "graphs" / graph.name, "O2")(feeds)
        golden |= {f"{graph.name}/inputs/{name}": value for name, value in feeds.items()}
        golden |= {f"{graph.name}/outputs/{name}": value for name, value in outputs.items()}
        entries[graph.name] = _entry(graph)
    save_npz(path / "golden.npz", golden)
    manifest = {
        "format": 1, "student": "toy", "task": "sketch", "glue": "sketch",
        "settings": {"selector": dict(selector), "normalise": NORMALISE, "index": "int8"},
        "uses": {"query": dict.fromkeys(entries, 1)}, "inputs": "real", "random_weights": False, "has_metric": True,
        "teacher_values": {}, "device": "board", "runtime": "c", "runtime_version": "1", "precision_requested": "int8",
        "graphs": entries, "files": sha256_tree(path), "status": "built", "reason": None, "sha256": "0" * 64,
    }  # fmt: skip
    write_json(path / "artifact.json", manifest)
    return Artifact.open(path), index


def _entry(graph: Graph) -> dict[str, Any]:
    return {
        **graph.to_json(), "status": "built", "reason": None, "precision": "int8", "notes": [], "options": {},
        "files": [f"graphs/{graph.name}/{name}" for name in ("model.c", "model.json", "model.tflite")], "bytes": 1,
        "sha256": "0" * 64, "parity": None, "ran_on": None,
    }  # fmt: skip


def _write_network(folder: Path, name: str, model: bytes) -> None:
    from targets.c.generate import generate, write
    from targets.tflite.schema import read_model

    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(model)
    write(generate(read_model(folder / "model.tflite"), name), folder)


def by_features(features: int, canvases: int) -> tuple[Graph, bytes]:
    """A selector that is one matrix."""
    from tests.targets.tflite_builder import Spec, build

    weights = np.random.default_rng(8).integers(-127, 128, (canvases, features)).astype(np.int8)
    seen = Spec((1, features), scale=8 / 255, zero_point=-1)
    logits = Spec((1, canvases), scale=0.05, zero_point=4)
    model = build("FULLY_CONNECTED", [seen, Spec(weights.shape, scale=0.01, data=weights), None], [logits])
    specs = TensorSpec("features", "float32", ("batch", features)), TensorSpec("logits", "float32", ("batch", canvases))
    return Graph("selector", specs[:1], specs[1:]), model


def by_points(hidden: int, canvases: int) -> tuple[Graph, bytes]:
    """A recurrent selector: state' = tanh(A point + B state), logits = C state'."""
    from tests.targets.tflite_builder import Node, Spec, build_graph

    rng = np.random.default_rng(9)

    def matrix(rows: int, columns: int, scale: float) -> Spec:
        return Spec((rows, columns), scale=scale, data=rng.integers(-127, 128, (rows, columns)).astype(np.int8))

    point, state = Spec((1, 5), scale=2 / 255, zero_point=0), Spec((1, hidden), scale=1 / 128, zero_point=0)
    parts = [Spec((1, hidden), scale=0.04, zero_point=zero) for zero in (3, -5)]
    total, following = Spec((1, hidden), scale=0.05), Spec((1, hidden), scale=1 / 128)
    logits = Spec((1, canvases), scale=0.05, zero_point=-7)
    nodes = [
        Node("FULLY_CONNECTED", [point, matrix(hidden, 5, 0.02), None], [parts[0]], {}),
        Node("FULLY_CONNECTED", [state, matrix(hidden, hidden, 0.006), None], [parts[1]], {}),
        Node("ADD", [*parts], [total], {}),
        Node("TANH", [total], [following], {}),
        Node("FULLY_CONNECTED", [following, matrix(canvases, hidden, 0.02), None], [logits], {}),
    ]
    inputs = TensorSpec("point", "float32", ("batch", 5)), TensorSpec("state", "float32", ("batch", hidden))
    outputs = (
        TensorSpec("next_state", "float32", ("batch", hidden)),
        TensorSpec("logits", "float32", ("batch", canvases)),
    )
    return Graph("selector_step", inputs, outputs), build_graph(nodes, [following, logits])


def _write_encoder(folder: Path, canvas_px: int, name: str, zero_point: int, rng: np.random.Generator) -> None:
    from tests.targets.tflite_builder import Spec, build

    pixels = canvas_px * canvas_px
    canvas = Spec((1, pixels), scale=0.0057, zero_point=-103)
    weights = Spec((DEPTH, pixels), scale=0.01, data=rng.integers(-127, 128, (DEPTH, pixels)).astype(np.int8))
    embedding = Spec((1, DEPTH), scale=0.006 * canvas_px, zero_point=zero_point)
    _write_network(folder, name, build("FULLY_CONNECTED", [canvas, weights, None], [embedding]))
