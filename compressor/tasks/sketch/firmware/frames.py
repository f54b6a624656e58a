"""Programs are templates beside this file with their numbers filled in; a sketch is the bytes of their inputs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from compressor.data.sketch import Sketch
from compressor.tasks.sketch.raster import MINIMUM_WIDTH_PX
from profiles.errors import RequestError
from profiles.storage import atomic_file, write_json

SOURCES = Path(__file__).parent
NAME = "sketch"


@dataclass(frozen=True)
class Capacity:
    """The largest sketch that a program has memory for."""

    points: int = 512
    strokes: int = 64


def write_raster(
    out: Path,
    canvas_px: int,
    capacity: Capacity,
    minimum_width_px: float = MINIMUM_WIDTH_PX,
    tolerance: float | None = None,
) -> Path:
    """Write the rasteriser as a model into `out`, which is made: its output is the canvas, float32. Gives `out`.

    `tolerance`: simplify (see compressor/tasks/sketch/simplify.py) before drawing.
    """
    values = {
        "title": f"{canvas_px} x {canvas_px} pixels",
        "name": NAME,
        "size": canvas_px,
        "minimum_width_px": hexadecimal(minimum_width_px),
        "tolerance": hexadecimal(-1.0 if tolerance is None else tolerance),
        **vars(capacity),
    }
    output = port("canvas", "float32", canvas_px, canvas_px)
    write_program(out, "raster_model.c", values, ("raster.h", "simplify.h"), sketch_ports(capacity), [output])
    return out


def hexadecimal(number: float) -> str:
    """A float32 as a C99 literal without its f, exactly.

    >>> hexadecimal(0.1)
    '0x1.99999a0000000p-4'
    """
    return float(np.float32(number)).hex()


def write_program(
    out: Path,
    template: str,
    values: Mapping[str, Any],
    headers: tuple[str, ...],
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    **about: Any,
) -> None:
    """model.c from a template beside this file, the headers that it includes, and model.json with what is known."""
    out.mkdir(parents=True, exist_ok=True)
    text = Template((SOURCES / template).read_text(encoding="utf-8")).substitute(values)
    with atomic_file(out / "model.c") as temporary:
        temporary.write_text(text, encoding="utf-8")
    for header in headers:
        shutil.copyfile(SOURCES / header, out / header)
    write_json(out / "model.json", {"name": NAME, "inputs": inputs, "outputs": outputs, **about})


def port(name: str, dtype: str, *shape: int) -> dict[str, Any]:
    """An input or output as model.json describes it."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return {"name": name, "dtype": dtype, "shape": list(shape), "bytes": size, "scale": None, "zero_point": None}


def sketch_ports(capacity: Capacity) -> list[dict[str, Any]]:
    """The inputs of a program that reads a sketch, in order."""
    return [
        port("points", "float32", capacity.points, 2),
        port("offsets", "int32", capacity.strokes + 1),
        port("widths", "float32", capacity.strokes),
        port("filled", "int32", capacity.strokes),
        port("strokes", "int32", 1),
    ]


def request(sketch: Sketch, capacity: Capacity) -> bytes:
    """A sketch as the bytes of the program's inputs. Raises RequestError if there is not room for it."""
    if len(sketch.points) > capacity.points or len(sketch) > capacity.strokes:
        raise RequestError(
            f"a sketch of {len(sketch.points)} points in {len(sketch)} strokes: the firmware has room for "
            f"{capacity.points} in {capacity.strokes}; simplify it, or build with a larger capacity"
        )
    values = (sketch.points, sketch.offsets, sketch.widths, sketch.filled, np.array([len(sketch)]))
    columns = []
    for value, entry in zip(values, sketch_ports(capacity), strict=True):
        column = np.zeros(entry["shape"], entry["dtype"])
        column[: len(value)] = value
        columns.append(column.tobytes())
    return b"".join(columns)
