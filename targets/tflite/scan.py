"""What can be said about a graph before it is converted: read from the files, without torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from targets.target import GraphSource

MAX_STEPS = 8  # of a recurrent layer: it is unrolled, and each step of a GRU is about 19 operators
RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")


def reason(source: GraphSource) -> str | None:
    """Why a graph cannot become a `.tflite` file; None if nothing is known against it."""
    for spec in source.graph.inputs:
        moving = [axis for axis in spec.shape[1:] if isinstance(axis, str)]
        if moving and not (source.golden or source.calibration):
            return (
                f"TFLite files have fixed shapes, but axis {moving[0]!r} of input {spec.name} is dynamic"
                " and there is no sample input to take its size from"
            )
    if source.program is None:
        from targets.tflite.from_onnx import unconvertible

        return unconvertible(source.onnx, call_shapes(source))
    return _program_reason(source.program)


def call_shapes(source: GraphSource) -> dict[str, tuple[int, ...]]:
    """Input name -> shape of one call of the file: one row where the batch is dynamic; sizes of other dynamic axes are
    those of the sample inputs."""
    samples = source.golden or source.calibration or {}
    shapes = {}
    for spec in source.graph.inputs:
        sample = samples[spec.name].shape if spec.name in samples else (1,) * len(spec.shape)
        sizes = [axis if isinstance(axis, int) else size for axis, size in zip(spec.shape, sample, strict=True)]
        shapes[spec.name] = (sizes[0] if isinstance(spec.shape[0], int) else 1, *sizes[1:])
    return shapes


def recurrent_reason(kind: str, steps: int) -> str | None:
    """Why a recurrent layer of so many time steps is refused; None if it is short enough."""
    if steps <= MAX_STEPS:
        return None
    return (
        f"{kind} over {steps} time steps would be unrolled into some {19 * steps} operators:"
        " export the cell of one step and loop on the host"
    )


def _program_reason(path: Path) -> str | None:
    for operator, node in _calls(path):
        kind = operator.removeprefix("torch.ops.aten.").split(".")[0]
        if kind in RECURRENT:
            found = recurrent_reason(kind.upper(), _steps(node))
            if found:
                return found
        elif operator == "torch.ops.aten.conv_transpose3d.input":
            return "conv_transpose3d has no two-dimensional form here: replace it, for example by an upsampling"
    return None


def _steps(node: dict[str, Any]) -> int:
    """The length in time of a recurrent layer's input."""
    batch_first = next((i["arg"].get("as_bool") for i in node["inputs"] if i["name"] == "batch_first"), False)
    return int(node["sizes"][1 if batch_first else 0])


def _calls(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(operator, its node with "sizes" of the first input) of the calls in an exported program."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/models/model.json"))
        graph = json.loads(archive.read(name))["graph_module"]["graph"]
    for node in graph["nodes"]:
        first = node["inputs"][0]["arg"].get("as_tensor", {}).get("name") if node["inputs"] else None
        known = graph["tensor_values"].get(first)
        sizes = [] if known is None else [size.get("as_int", 1) for size in known["sizes"]]
        yield node["target"], {**node, "sizes": sizes}
