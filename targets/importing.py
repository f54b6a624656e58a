"""A user's own model (.onnx, .pt2 or timm:NAME), with or without data, becomes a bundle with the generic glue."""

from __future__ import annotations

import difflib
import re
import shutil
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import RequestError, require
from profiles.storage import load_npz
from targets import sandbox
from targets.bundle import Bundle
from targets.export import BundleWriter
from targets.graph import Arrays, Graph, TensorSpec, check_feeds
from targets.model import METRICS, ModelGlue, metric_module
from targets.target import Session, get_target

if TYPE_CHECKING:
    from torch import nn

GRAPH = "model"
CALIBRATION_ITEMS = 256
GOLDEN_ITEMS = 32
SYNTHETIC_ITEMS = 8
SPLIT_FROM = 20  # fewer items than this are not divided into validation and test


@dataclass
class Data:
    """A user's arrays, (n, ...) each: `inputs` by name, `targets` by name ("targets" if there is one)."""

    path: Path
    inputs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a split, as the generic glue wants them."""
        inputs = {f"inputs/{name}": value[indices] for name, value in self.inputs.items()}
        if list(self.targets) == ["targets"]:
            return {**inputs, "targets": self.targets["targets"][indices]}
        return {**inputs, **{f"targets/{name}": value[indices] for name, value in self.targets.items()}}


def import_model(
    model: str, out: str | Path, *, data: str | Path | None = None, metric: str | None = None, name: str | None = None
) -> Bundle:
    """Write a bundle from a `.onnx` or `.pt2` file or `timm:NAME`.

    Args:
        data: an .npz or a directory of .npy files: one array (n, ...) per input, and "targets" (or "targets/NAME").
            An array for the only input may have any name. Half of 20 or more items is validation (calibration and
            parity come from it), the other half test.
        metric: "top1", "top5", "mae", "mse" or "module:function" (outputs, targets) -> one score per item; a module
            in the working directory travels with the bundle. name: the student's name; default: the model's.
    Without data the golden inputs are random (`bundle.inputs == "synthetic"`) and int8 is refused later. Where timm's
    weights cannot be reached they are random: `bundle.random_weights`, and no metric is evaluated.
    Raises RequestError, in one line, for anything that is wrong with the request.
    """
    loaded = load_data(Path(data)) if data is not None else None
    _check_metric(metric, loaded, data)
    kind, source = _open_model(model)
    default = model.partition(":")[2] if kind == "timm" else Path(model).stem
    return {"timm": _import_timm, "onnx": _import_onnx, "pt2": _import_program}[kind](
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


# -- data ----------------------------------------------------------------------------------------------------------


def load_data(path: Path) -> Data:
    """Read --data. Raises RequestError if it cannot be read, is empty, or its arrays have different lengths."""
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise RequestError(f"--data {path}: no .npy files in it: give one NAME.npy per input")
        arrays = {file.stem: _load_npy(file) for file in files}
    else:
        arrays = load_npz(path)
    inputs, targets = {}, {}
    for name, value in arrays.items():
        if value.ndim == 0:
            raise RequestError(f"--data {path}: {name} is a single number; give an array (items, ...)")
        if name == "targets" or name.startswith("targets/"):
            targets[name.removeprefix("targets/")] = value
        else:
            inputs[name.removeprefix("inputs/")] = value
    if not inputs:
        raise RequestError(f"--data {path}: there is no input in it: give one array per input of the model")
    lengths = {
        name: len(value) for name, value in {**inputs, **{f"targets/{k}": v for k, v in targets.items()}}.items()
    }
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise RequestError(f"--data {path}: arrays have different numbers of items ({shown})")
    if not next(iter(lengths.values())):
        raise RequestError(f"--data {path}: there are no items in it")
    return Data(path, inputs, targets)


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path}: not a readable .npy of plain numbers ({error})") from None


def _check_metric(metric: str | None, data: Data | None, path: str | Path | None) -> None:
    if metric is not None and metric not in METRICS:
        metric_module(metric)
    if metric is not None and (data is None or not data.targets):
        where = f"--data {path} has none" if data is not None else "there is no --data"
        raise RequestError(f"--metric {metric} needs targets, but {where}: add an array 'targets' to the data")
    if metric is None and data is not None and data.targets:
        raise RequestError(
            f"--data {path} has targets, but there is no --metric: give {', '.join(METRICS)} or module:function"
        )


def _matched(data: Data, graph: Graph) -> Data:
    """The data with its inputs named, ordered, typed and shaped as the graph takes them; else RequestError."""
    inputs = data.inputs
    if len(inputs) == 1 and len(graph.inputs) == 1:
        inputs = {graph.inputs[0].name: next(iter(inputs.values()))}
    return Data(data.path, check_feeds(graph, inputs, f"--data {data.path}"), data.targets)


def synthetic_inputs(graph: Graph, count: int = SYNTHETIC_ITEMS, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: standard normal floats; integers of 0 and 1, which every vocabulary has."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in graph.inputs:
        shape = (count, *spec.concrete()[1:])
        dtype = np.dtype(spec.dtype)
        values = rng.integers(0, 2, shape) if dtype.kind in "iub" else rng.standard_normal(shape)
        arrays[spec.name] = values.astype(dtype)
    return arrays


# -- writing -------------------------------------------------------------------------------------------------------


def _fill(writer: BundleWriter, graph: Graph, data: Data | None, metric: str | None, learned: bool) -> None:
    """Data, metric and settings of a bundle whose graph was added."""
    settings: dict[str, Any] = {"graph": graph.name, "metric": metric if learned else None, "metric_file": None}
    writer.uses({"query": {graph.name: 1}})
    if data is None:
        inputs = synthetic_inputs(graph)
        writer.golden(graph.name, inputs)
        writer.split("validation", {f"inputs/{name}": value for name, value in inputs.items()})
        writer.settings(settings)
        return
    validation, test = _divide(len(data))
    golden = validation[-GOLDEN_ITEMS:]
    calibration = validation[:CALIBRATION_ITEMS]
    writer.golden(graph.name, {name: value[golden] for name, value in data.inputs.items()})
    writer.calibration(graph.name, {name: value[calibration] for name, value in data.inputs.items()})
    if metric is not None and metric not in METRICS:
        settings["metric_file"] = _take_metric(writer, metric)
    writer.settings(settings)
    for split, indices in (("validation", validation), ("test", test)):
        arrays = data.rows(indices)
        writer.split(split, arrays)
        if settings["metric"] is not None:
            glue = ModelGlue({graph.name: writer.reference(graph.name)}, settings, writer.root / "assets")
            evaluation = glue.evaluate(
                arrays
            )  # a metric that does not fit is found out here, before anything is compiled
            writer.metric(
                evaluation.name,
                evaluation.value,
                split=split,
                higher_is_better=evaluation.higher_is_better,
                n=len(evaluation.scores),
            )
    writer.lineage({"data": {"file": data.path.name, "items": len(data), "divided": len(data) >= SPLIT_FROM}})


def _divide(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the validation and the test half, by a fixed shuffle; all of a small set in both."""
    order = np.random.default_rng(0).permutation(count)
    if count < SPLIT_FROM:
        return order, order
    return order[: count // 2], order[count // 2 :]


def _take_metric(writer: BundleWriter, metric: str) -> str | None:
    """Put the metric's module into the bundle if it is a file of the working directory; None if it is installed."""
    module, _ = metric_module(metric)
    file = Path.cwd() / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        return None
    name = f"metric/{module}.py"
    writer.asset(name, file)
    return name


def _import_onnx(model: str, out: Path, data: Data | None, metric: str | None, name: str) -> Bundle:
    from targets.onnx_files import fix_axes, read_graph

    path = Path(model)
    raw = read_graph(path, GRAPH)
    graph, fixed = _normalise(raw, data, model)
    if data is not None:
        data = _matched(data, graph)
    with BundleWriter(
        out,
        student=name,
        task="model",
        glue="model",
        inputs="synthetic" if data is None else "real",
        has_metric=metric is not None,
        lineage={"model": path.name},
    ) as writer:
        if fixed:
            path = fix_axes(path, graph, writer.root / "fixed")
        try:
            graph = Graph(graph.name, graph.inputs, read_graph(path, GRAPH).outputs) if fixed else graph
            first = data.inputs if data is not None else synthetic_inputs(graph, 1)
            first = {key: value[:1] for key, value in first.items()}
            writer.add_onnx(graph, path, _onnx_reference(path, graph, first))
            _fill(writer, graph, data, metric, learned=True)
        finally:
            if fixed:
                shutil.rmtree(writer.root / "fixed")
    return Bundle.open(out)


def _normalise(raw: Graph, data: Data | None, model: str) -> tuple[Graph, bool]:
    """The graph with its first axes as the batch and every other axis fixed; whether the file must be changed for that.

    Raises RequestError if an input has no batch axis, or a dynamic axis is left that no data says the size of.
    """
    sizes = {len(spec.shape) and spec.shape[0] for spec in raw.inputs}
    batches = {axis for axis in sizes if isinstance(axis, int)}
    scalar = [spec.name for spec in (*raw.inputs, *raw.outputs) if not spec.shape]
    if not raw.inputs or scalar:
        what = f"{scalar[0]} is a scalar" if scalar else "it has no inputs"
        raise RequestError(f"{model}: {what}; every input and output needs the batch as its first axis")
    if len(batches) > 1:
        raise RequestError(f"{model}: inputs have first axes {sorted(batches)}; they must be one batch")
    batch: int | str = batches.pop() if batches else "batch"
    fixed = any(spec.shape[0] != batch for spec in raw.inputs) and isinstance(batch, int)
    inputs = []
    for spec in raw.inputs:
        shape: list[int | str] = [batch]
        for i, axis in enumerate(spec.shape[1:], start=1):
            if isinstance(axis, str):
                axis, fixed = _axis_from_data(spec, i, data, raw, model), True
            shape.append(axis)
        inputs.append(TensorSpec(spec.name, spec.dtype, tuple(shape)))
    outputs = [TensorSpec(spec.name, spec.dtype, (batch, *spec.shape[1:])) for spec in raw.outputs]
    return Graph(raw.name, tuple(inputs), tuple(outputs)), fixed


def _axis_from_data(spec: TensorSpec, axis: int, data: Data | None, graph: Graph, model: str) -> int:
    if data is None:
        raise RequestError(
            f"{model}: axis {axis} of input {spec.name} is dynamic ({spec.shape[axis]}): give --data, to take it from"
        )
    only = len(graph.inputs) == 1 and len(data.inputs) == 1
    value = next(iter(data.inputs.values())) if only else data.inputs.get(spec.name)
    if value is None or value.ndim != len(spec.shape):
        found = "is missing" if value is None else f"has shape {value.shape}"
        raise RequestError(f"--data {data.path}: input {spec.name} {found}, but the graph takes {spec.shape}")
    return value.shape[axis]


def _onnx_reference(path: Path, graph: Graph, first: Arrays) -> Session:
    """Float outputs of a user's file. It is tried in the sandbox first: it may crash whatever opens it."""
    arguments = {"path": str(path.resolve()), "graph": graph.to_json()}
    try:
        sandbox.call("targets.importing:run_onnx", arguments, arrays=first, doing="running the model")
    except sandbox.SandboxError as error:
        raise RequestError(f"{path.name}: ONNX Runtime cannot run it: {error.reason}") from None
    return get_target("onnx").open(graph, (path,), "fp32", {})


def run_onnx(path: str, graph: dict[str, Any], arrays: Arrays) -> None:
    """Open an ONNX file and run it once; runs in the sandbox."""
    get_target("onnx").open(Graph.from_json(graph), (Path(path),), "fp32", {})(arrays)


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
        data = _matched(data, graph)
    with BundleWriter(
        out,
        student=name,
        task="model",
        glue="model",
        inputs="synthetic" if data is None else "real",
        has_metric=metric is not None,
        lineage={"model": Path(model).name},
    ) as writer:
        examples = data.inputs if data is not None else synthetic_inputs(graph)
        graph = writer.add_program(GRAPH, program, {key: value[:2] for key, value in examples.items()})
        _fill(writer, graph, data, metric, learned=True)
    return Bundle.open(out)


# -- timm ----------------------------------------------------------------------------------------------------------


def _import_timm(model: str, out: Path, data: Data | None, metric: str | None, name: str) -> Bundle:
    timm = require("timm", "train")
    network, reason = _timm_model(model)
    config = {**getattr(network, "pretrained_cfg", {}), **timm.data.resolve_model_data_config(network)}
    shape = ("batch", *config["input_size"])
    wanted = Graph(GRAPH, (TensorSpec("image", "float32", shape),), ())
    if data is not None:
        data = _matched(data, wanted)
    example = data.inputs["image"][:1] if data is not None else synthetic_inputs(wanted, 1)["image"]
    lineage = {
        "model": f"timm:{model}",
        "timm": timm.__version__,
        "licence": config.get("license"),
        "normalisation": {"mean": list(config["mean"]), "std": list(config["std"])},
        "random_weights": reason,
    }
    with BundleWriter(
        out,
        student=name,
        task="model",
        glue="model",
        inputs="synthetic" if data is None else "real",
        random_weights=reason is not None,
        has_metric=metric is not None and reason is None,
        lineage=lineage,
    ) as writer:
        graph = writer.add_graph(GRAPH, network, {"image": example}, outputs=("logits",))
        _fill(writer, graph, data, metric, learned=reason is None)
    return Bundle.open(out)


def _timm_model(model: str) -> tuple[nn.Module, str | None]:
    """The network and, if its weights could not be had, why they are random."""
    timm, torch = require("timm", "train"), require("torch", "train")
    architecture = model.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3)
        raise RequestError(f"timm:{model}: unknown model" + (f": did you mean {' or '.join(near)}?" if near else ""))
    constants = require("huggingface_hub", "train").constants
    offline = constants.HF_HUB_OFFLINE
    # without this the hub's client retries for most of a minute before it gives up
    constants.HF_HUB_OFFLINE = offline or not _reachable(constants.ENDPOINT)
    try:
        return timm.create_model(model, pretrained=True), None
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
    finally:
        constants.HF_HUB_OFFLINE = offline
    try:
        torch.manual_seed(0)
        return timm.create_model(model, pretrained=False), reason
    except RuntimeError as error:
        raise RequestError(f"timm:{model}: {str(error).splitlines()[0]}") from None


def _reachable(address: str, timeout_s: float = 5.0) -> bool:
    """Whether a connection can be tried: the host answers, or a proxy stands in between."""
    if urllib.request.getproxies():
        return True
    parts = urllib.parse.urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port or 443), timeout_s).close()
    except OSError:
        return False
    return True
