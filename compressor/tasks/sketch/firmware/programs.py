"""Programs with a gallery: the index alone, and the whole query, from a sketch to the nearest photos."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.tasks.sketch.firmware.frames import (
    NAME,
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
from profiles.errors import RequestError
from profiles.storage import atomic_file, read_json
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from targets.artifact import Artifact
    from targets.firmware.query import QueryProgram
    from targets.student import Student

LINE = 112


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

    `artifact`: an int8 student of the runtime c whose selector is "fixed" or "cascade". A score is the cosine times the
    length of what was looked for, in int8 steps. At least as many rows as a cascade reads are given, if there are so
    many. Gives `out`. Raises RequestError for another student, or one whose encoders did not compile.
    """
    settings = artifact.manifest["settings"]
    selector = settings["selector"]
    if artifact.runtime != "c" or selector["kind"] not in ("fixed", "cascade"):
        raise RequestError(
            f"{artifact.path}: whole queries are written for runtime c and the selectors fixed and cascade, not for "
            f"{artifact.runtime} and {selector['kind']}"
        )
    if selector["kind"] == "fixed":
        selector = {"canvases": [selector["canvas_px"]], "thresholds": [], "measure": "margin", "combine": "last"}
    canvases = [int(px) for px in selector["canvases"]]
    folders = [_folder(artifact, px) for px in canvases]
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
        "thresholds": ", ".join(f"{hexadecimal(value)}f" for value in (*selector["thresholds"], 0.0)),
        "minimum_width_px": hexadecimal(settings.get("minimum_width_px", MINIMUM_WIDTH_PX)),
        "mean": hexadecimal(normalise["mean"]),
        "std": hexadecimal(normalise["std"]),
        **vars(capacity),
    }
    write_program(out, "student_model.c", values, ("index.h", "raster.h"), sketch_ports(capacity), _answers(k))
    _write_encoders(out, folders)
    return out


def _folder(artifact: Artifact, canvas_px: int) -> Path:
    graph = f"encoder_{canvas_px}"
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


def _write_encoders(out: Path, folders: Sequence[Path]) -> None:
    """encoders.c: the artifact's encoders in one file, so that each kernel is there once; and their header."""
    from targets.c.generate import generate, header, translation_unit
    from targets.tflite.schema import read_model

    models = [
        generate(read_model(folder / "model.tflite"), read_json(folder / "model.json")["name"]) for folder in folders
    ]
    for name, text in (("encoders.c", translation_unit(models)), ("model.h", "\n".join(map(header, models)))):
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
    norms = ", ".join(f"{hexadecimal(norm)}f" for norm in index.inverse_norms)
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
