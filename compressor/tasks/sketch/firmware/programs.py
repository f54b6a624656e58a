"""Programs with a gallery: the index alone, and the whole query, from a sketch to the nearest photos."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.tasks.sketch.firmware.frames import (
    NAME,
    SOURCES,
    Capacity,
    hexadecimal,
    port,
    request,
    sketch_ports,
    write_program,
)
from compressor.tasks.sketch.index import Index
from compressor.tasks.sketch.raster import MINIMUM_WIDTH_PX
from compressor.tasks.sketch.selector.features import NEAREST, TEMPERATURE
from compressor.tasks.sketch.selector.glue import Z_LIMIT
from profiles.errors import RequestError
from profiles.storage import atomic_file, read_json
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from targets.artifact import Artifact
    from targets.firmware.query import QueryProgram
    from targets.graph import Graph
    from targets.student import Student

LINE = 112
# The graph that each kind of selector asks.
NETWORKS = {"fixed": None, "statistics": "selector", "gru": "selector_step", "cascade": None, "gate": "selector"}
NO_CHOICE = "static int32_t choose(const struct found *found, float length) { return (void)found, (void)length, 0; }"


def write_index(out: Path, index: Index, k: int, zero_point: int) -> Path:
    """Write the index as a model into `out`, which is made: an encoder's int8 output -> the k nearest rows, scores.

    `zero_point`: of the encoder's output. A score is the cosine times the query's length. Gives `out`.
    """
    k = min(k, len(index))
    values = {
        "title": f"{len(index)} rows of {index.codes.shape[1]}",
        "name": NAME,
        "gallery": gallery_in_c(index),
        "k": k,
        "zero_point": zero_point,
    }
    query = port("query", "int8", index.codes.shape[1])
    write_program(out, "index_model.c", values, ("index.h",), [query], _answers(k))
    return out


def write_student(out: Path, artifact: Artifact, index: Index, capacity: Capacity, k: int = 10) -> Path:
    """Write a student's whole query as a model into `out`, which is made: a sketch -> the k nearest rows, scores.

    `artifact`: an int8 student of the runtime c. A score is the cosine times the length of what was looked for, in int8
    steps. At least as many rows as a cascade or a gate reads are given, if there are so many. Gives `out`. Raises
    RequestError for another student, or one whose graphs did not compile.
    """
    settings = artifact.manifest["settings"]
    selector = settings["selector"]
    if artifact.runtime != "c" or selector["kind"] not in NETWORKS:
        raise RequestError(
            f"{artifact.path}: whole queries are written for runtime c and the selectors {', '.join(NETWORKS)}, "
            f"not for {artifact.runtime} and {selector['kind']}"
        )
    selector = {"thresholds": [], "measure": "margin", **selector}
    if selector["kind"] not in ("cascade", "gate"):
        selector["combine"] = "last"  # there is one look
    canvases = [int(px) for px in selector.get("canvases", [selector.get("canvas_px")])]
    folders = [_folder(artifact, f"encoder_{px}") for px in canvases]
    network = NETWORKS[selector["kind"]]
    chooser = None if network is None else _folder(artifact, network)
    normalise: Mapping[str, Any] = settings.get("normalise", {"mean": 0.0, "std": 1.0})
    k = min(max(k, NEAREST if len(canvases) > 1 else 1), len(index))
    values = {
        "title": f"{artifact.student_name}, {', '.join(map(str, canvases))} px, {len(index)} photos",
        "name": NAME,
        "gallery": gallery_in_c(index),
        "largest_px": max(canvases),
        "k": k,
        "nearest": NEAREST,
        "combine": selector["combine"].upper(),
        "measure": selector["measure"].upper(),
        "temperature": hexadecimal(TEMPERATURE),
        "looks": "\n".join(_look(px, folder, index) for px, folder in zip(canvases, folders, strict=True)),
        "thresholds": floats_in_c((*selector["thresholds"], 0.0)),
        "kind": selector["kind"].upper(),
        "choosing": NO_CHOICE,
        "minimum_width_px": hexadecimal(settings.get("minimum_width_px", MINIMUM_WIDTH_PX)),
        "ink_mean": hexadecimal(normalise["mean"]),
        "ink_std": hexadecimal(normalise["std"]),
        **vars(capacity),
    }
    if network is not None and chooser is not None:
        values["choosing"] = _choosing(selector, artifact.graphs[network], read_json(chooser / "model.json"))
    headers = ("index.h", "raster.h", *(() if chooser is None else ("simplify.h", "selector.h")))
    networks = folders if chooser is None else [*folders, chooser]
    arena_bytes = max(read_json(folder / "model.json")["arena_bytes"] for folder in networks)
    ports = sketch_ports(capacity), _answers(k)
    write_program(out, "student_model.c", values, headers, *ports, arena_bytes=arena_bytes)
    _write_networks(out, networks)
    return out


def _choosing(selector: Mapping[str, Any], graph: Graph, about: Mapping[str, Any]) -> str:
    """The C of a selector with a network: its graph, and its model.json `about`, whose ports are in the same order."""
    inputs, outputs = (
        {spec.name: (index, entry) for index, (spec, entry) in enumerate(zip(specs, about[key], strict=True))}
        for key, specs in (("inputs", graph.inputs), ("outputs", graph.outputs))
    )
    values: dict[str, Any] = {"selector": about["name"], "tolerance": hexadecimal(selector["tolerance"])}
    if selector["kind"] == "gru":
        template = "choose_by_points.c"
        values |= {"read": selector["points"], "hidden": selector["hidden"]}
        for name, (index, entry) in (
            ("point", inputs["point"]),
            ("state", inputs["state"]),
            ("next", outputs["next_state"]),
            ("logits", outputs["logits"]),
        ):
            values |= {f"{name}_index": index, f"{name}_scale": hexadecimal(entry["scale"])}
            values[f"{name}_zero_point"] = entry["zero_point"]
    else:
        template, ((_, entry),) = "choose_by_features.c", inputs.values()
        values |= {"input_scale": hexadecimal(entry["scale"]), "input_zero_point": entry["zero_point"]}
        values |= {key: floats_in_c(selector[key]) for key in ("mean", "std")}
        values |= {"temperature": hexadecimal(TEMPERATURE), "limit": hexadecimal(Z_LIMIT)}
    texts = [(SOURCES / name).read_text(encoding="utf-8") for name in ("choose_common.c", template)]
    return "".join(Template(text).substitute(values) for text in texts)


def floats_in_c(numbers: Sequence[float]) -> str:
    return ", ".join(f"{hexadecimal(number)}f" for number in numbers)


def _folder(artifact: Artifact, graph: str) -> Path:
    if not artifact.files(graph):
        raise RequestError(f"{artifact.path}: graph {graph} was not compiled")
    return artifact.files(graph)[0].parent


def _look(canvas_px: int, folder: Path, index: Index) -> str:
    """A line of the table of looks."""
    about = read_json(folder / "model.json")
    (seen,), (embedding,), name = about["inputs"], about["outputs"], about["name"]
    if int(np.prod(embedding["shape"])) != index.codes.shape[1]:
        raise RequestError(f"{name} gives {embedding['shape']}, the index has rows of {index.codes.shape[1]}")
    functions = ", ".join(f"{name}_{what}" for what in ("run", "input", "output"))
    numbers = f"{hexadecimal(seen['scale'])}f, {seen['zero_point']}, {embedding['zero_point']}"
    return f"  {{{canvas_px}, {numbers}, {functions}}},"


def _write_networks(out: Path, folders: Sequence[Path]) -> None:
    """networks.c, the artifact's networks in one file: each kernel is there once and one arena serves all, because they
    run one after the other; and their header."""
    from targets.c.generate import generate, header, translation_unit
    from targets.tflite.schema import read_model

    models = [
        generate(read_model(folder / "model.tflite"), read_json(folder / "model.json")["name"]) for folder in folders
    ]
    for name, text in (
        ("networks.c", translation_unit(models, one_arena=True)),
        ("model.h", "\n".join(map(header, models))),
    ):
        with atomic_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def query_program(
    student: Student, artifact: Artifact, arrays: Mapping[str, np.ndarray], count: int, out: Path
) -> QueryProgram:
    """See targets.firmware.query: some of a split's sketches against the gallery that the student looks in.

    The program has room for the largest of the split's sketches. The same answer is the same nearest photo.
    """
    from targets.firmware.query import QueryProgram

    sketches = list(student.glue.queries(arrays))  # afterwards the glue has a gallery
    gallery = student.glue.gallery()  # type: ignore[attr-defined]
    index = Index.build(gallery.embeddings, gallery.labels)
    room = {
        "points": max(len(sketch.points) for sketch in sketches),
        "strokes": max(len(sketch) for sketch in sketches),
    }
    folder = write_student(out, artifact, index, Capacity(**room))
    asked = [sketches[number] for number in evenly_spread(len(sketches), count)]

    def agrees(number: int, reply: bytes) -> bool:
        return int(np.frombuffer(reply, np.int32, 1)[0]) == int(student(asked[number]).indices[0])

    return QueryProgram(folder, [request(sketch, Capacity(**room)) for sketch in asked], agrees)


def gallery_in_c(index: Index) -> str:
    """`static const struct gallery gallery` and its arrays, constants that stay in flash."""
    rows, depth = index.codes.shape
    codes = ", ".join(map(str, index.codes.reshape(-1).tolist()))
    norms = floats_in_c(index.inverse_norms.tolist())
    return "\n".join(
        (
            f"enum {{ GALLERY_ROWS = {rows}, GALLERY_DEPTH = {depth} }};",
            "static const int8_t gallery_codes[GALLERY_ROWS * GALLERY_DEPTH] __attribute__((aligned(4))) = {",
            *textwrap.wrap(codes, LINE),
            "};",
            "static const float gallery_inverse_norms[GALLERY_ROWS] = {",
            *textwrap.wrap(norms, LINE),
            "};",
            "static const struct gallery gallery = {",
            "  gallery_codes, gallery_inverse_norms, GALLERY_ROWS, GALLERY_DEPTH",
            "};",
        )
    )


def _answers(k: int) -> list[dict[str, Any]]:
    return [port("rows", "int32", k), port("scores", "float32", k)]
