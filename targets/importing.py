"""A user's own model (.onnx, .pt2 or timm:NAME), with or without data, becomes a bundle with the generic glue."""

from __future__ import annotations

import re
from pathlib import Path

from profiles.errors import RequestError
from targets.bundle import Bundle
from targets.import_bundle import GRAPH, fill, open_writer
from targets.import_data import Data, check_metric, load_data, matched, synthetic_inputs
from targets.import_onnx import import_onnx
from targets.import_timm import import_timm


def import_model(
    model: str, out: str | Path, *, data: str | Path | None = None, metric: str | None = None, name: str | None = None
) -> Bundle:
    """Write a bundle from a `.onnx` or `.pt2` file or `timm:NAME`.

    Args:
        data: an .npz or a directory of .npy files: one array (n, ...) per input, and "targets" (or "targets/NAME").
            An array for the only input may have any name; an input that is a single number takes one equal value per
            item. Half of 20 or more items is validation (calibration and
            parity come from it), the other half test.
        metric: "top1", "top5", "mae", "mse" or "module:function" (outputs, targets) -> one score per item; a module
            in the working directory travels with the bundle. name: the student's name; default: the model's.
    Without data the golden inputs are random (`bundle.inputs == "synthetic"`) and int8 is refused later. Where timm's
    weights cannot be reached they are random: `bundle.random_weights`, and no metric is evaluated.
    Raises RequestError, in one line, for anything that is wrong with the request.
    """
    loaded = load_data(Path(data)) if data is not None else None
    check_metric(metric, loaded, data)
    kind, source = _open_model(model)
    default = model.partition(":")[2] if kind == "timm" else Path(model).stem
    return {"timm": import_timm, "onnx": import_onnx, "pt2": _import_program}[kind](
        source, Path(out), loaded, metric, name or _student_name(default)
    )


def _open_model(model: str) -> tuple[str, str]:
    if model.startswith("timm:"):
        return "timm", model.removeprefix("timm:")
    suffix = Path(model).suffix.lower()
    if suffix not in (".onnx", ".pt2"):
        raise RequestError(f"{model}: not a model: give a .onnx or .pt2 file, or timm:NAME")
    if not Path(model).is_file():
        raise RequestError(f"{model}: no such file")
    return suffix[1:], model


def _student_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"


def _import_program(model: str, out: Path, data: Data | None, metric: str | None, name: str) -> Bundle:
    from targets.programs import load_program
    from targets.tracing import graph_of, io_names

    program = load_program(model)
    graph = graph_of(GRAPH, program, *io_names(program))
    dynamic = [(spec.name, axis) for spec in graph.inputs for axis in spec.shape[1:] if isinstance(axis, str)]
    if dynamic:
        raise RequestError(
            f"{model}: input {dynamic[0][0]} has a dynamic axis beside the batch: export it with a fixed one"
        )
    if data is not None:
        data = matched(data, graph)
    with open_writer(out, name, data, metric, {"model": Path(model).name}) as writer:
        examples = data.inputs if data is not None else synthetic_inputs(graph)
        graph = writer.add_program(GRAPH, program, {key: value[:2] for key, value in examples.items()})
        fill(writer, graph, data, metric, learned=True)
    return Bundle.open(out)
