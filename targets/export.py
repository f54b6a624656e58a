"""Write a bundle: a student on disk, checked against its modules as it is written. torch is imported inside."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import RequestError, require
from profiles.storage import atomic_directory, save_npz, sha256_tree, write_json
from targets.bundle import FORMAT, SPLITS
from targets.graph import Arrays, Graph, TensorSpec
from targets.onnx_files import export_onnx, quiet, slim_onnx
from targets.parity import Parity, compare, failure
from targets.programs import load_program, save_program

if TYPE_CHECKING:
    from torch import nn


class BundleWriter:
    """Context manager that writes a bundle; nothing is left at `path` unless the block ends without an error.

    Args:
        path: the directory that becomes the bundle (an old bundle there is replaced as a whole).
        student: its name in results; task: the task's name; glue: what `resolve_glue` gets (a task's name or "model").
        recipe, recipe_hash: what it was made with. lineage: data and package versions, licences, commit.
        inputs: "real", or "synthetic" when golden and calibration inputs are random.
        random_weights: True if nothing was learned, so that only cost may be reported.
        has_metric: False if the glue cannot evaluate (a user's model without targets).

    >>> with BundleWriter(path, student="tiny", task="sketch", glue="sketch") as writer:   # doctest: +SKIP
    ...     writer.add_graph("encoder", module, {"canvas": np.zeros((1, 1, 32, 32), "float32")}, outputs=("embedding",))
    ...     writer.golden("encoder", {"canvas": canvases})
    """

    def __init__(
        self,
        path: str | Path,
        *,
        student: str,
        task: str,
        glue: str,
        recipe: Mapping[str, Any] | None = None,
        recipe_hash: str | None = None,
        lineage: Mapping[str, Any] | None = None,
        inputs: str = "real",
        random_weights: bool = False,
        has_metric: bool = True,
    ) -> None:
        self.path = Path(path)
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "student": student,
            "task": task,
            "glue": glue,
            "recipe": dict(recipe) if recipe is not None else None,
            "recipe_hash": recipe_hash,
            "inputs": inputs,
            "random_weights": random_weights,
            "has_metric": has_metric,
            "graphs": {},
            "uses": {},
            "settings": {},
            "metrics": [],
            "teacher_values": {},
            "teacher": None,
            "lineage": dict(lineage or {}),
        }
        self._modules: dict[str, nn.Module] = {}
        self._runners: dict[
            str, Any
        ] = {}  # graphs without a module (a user's ONNX): a session that gives golden outputs
        self._calibration: dict[str, np.ndarray] = {}
        self._golden: dict[str, np.ndarray] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BundleWriter:
        self.root = self._stack.enter_context(atomic_directory(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException as failed:
                self._stack.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)

    # -- graphs ----------------------------------------------------------------------------------------------------

    def add_graph(
        self,
        name: str,
        module: nn.Module,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        weights: str | None = None,
        dynamic_batch: bool = True,
    ) -> Graph:
        """Export one network: weights, float32 ONNX and exported program, both checked against the module.

        Args:
            name: the graph's name, an identifier. module: called with `inputs` by position, in eval mode.
            inputs: input name -> example (batch, ...), array or tensor. outputs: names, in the module's order.
            weights: name of the weights file; graphs with the same weights share one (their values must be equal).
            dynamic_batch: False fixes the batch to 1.
        Raises RequestError if the network cannot be exported or the files do not repeat it within the fp32 limit.
        """
        if not name.isidentifier() or name in self._manifest["graphs"]:
            raise ValueError(f"graph name {name!r} is no identifier or was used before")
        torch = require("torch", "train")
        module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        examples = {
            key: _rows(torch.as_tensor(value).cpu(), 2 if dynamic_batch else 1) for key, value in inputs.items()
        }
        program = _export_program(name, module, examples, dynamic_batch)
        graph = _graph_of(name, program, list(inputs), list(outputs), dynamic_batch)
        folder = self.root / "graphs" / name
        folder.mkdir(parents=True)
        save_program(program, folder / "program.pt2")
        slimmed = _write_onnx(program, folder / "model.onnx", graph, examples)
        checks = {}
        for batch in (1, 3) if dynamic_batch else (1,):
            feeds = {key: _rows(value, batch).numpy() for key, value in examples.items()}
            reference = run_module(module, feeds, outputs)
            checks[batch] = _check_files(name, graph, folder, feeds, reference)
        self._modules[name] = module
        self._manifest["graphs"][name] = {
            **graph.to_json(),
            "onnx": f"graphs/{name}/model.onnx",
            "program": f"graphs/{name}/program.pt2",
            "weights": self._write_weights(weights or name, module),
            "torch": torch.__version__,
            "slimmed": slimmed is None,
            "slim_reason": slimmed,
            "parity": {kind: parity.to_json() for kind, parity in checks[max(checks)].items()},
        }
        return graph

    def add_onnx(self, graph: Graph, path: Path) -> None:
        """Take a user's ONNX file as it is (with its external weights). Its own float outputs are the reference."""
        from targets.onnx_files import external_files, load_onnx
        from targets.target import get_target

        folder = self.root / "graphs" / graph.name
        folder.mkdir(parents=True)
        shutil.copyfile(path, folder / "model.onnx")
        for extra in external_files(load_onnx(path, weights=False)):
            (folder / extra).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.parent / extra, folder / extra)
        self._runners[graph.name] = get_target("onnx").open(graph, (folder / "model.onnx",), "fp32", {})
        self._manifest["graphs"][graph.name] = {
            **graph.to_json(),
            "onnx": f"graphs/{graph.name}/model.onnx",
            "program": None,
            "weights": None,
            "torch": None,
        }

    def _write_weights(self, name: str, module: nn.Module) -> str:
        """Write the module's state as safetensors, or check that it equals what is there. Gives the relative path."""
        torch = require("torch", "train")
        safetensors = require("safetensors.torch", "train")
        state = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
        path = self.root / "weights" / f"{name}.safetensors"
        if path.exists():
            there = safetensors.load_file(path)
            if there.keys() != state.keys() or not all(torch.equal(there[key], state[key]) for key in state):
                raise ValueError(f"weights {name!r} were written before with other values")
        else:
            path.parent.mkdir(exist_ok=True)
            safetensors.save_file(state, path)
        return f"weights/{name}.safetensors"

    # -- data ------------------------------------------------------------------------------------------------------

    def calibration(self, graph: str, feeds: Mapping[str, Any]) -> None:
        """Real inputs (n, ...) of one graph from which int8 ranges are taken. Never from the test part."""
        for name, value in self._checked(graph, feeds).items():
            self._calibration[f"{graph}/{name}"] = value

    def golden(self, graph: str, feeds: Mapping[str, Any]) -> None:
        """Inputs (n, ...) of one graph on which every artifact is checked; the outputs are computed here, in float."""
        feeds = self._checked(graph, feeds)
        names = [spec["name"] for spec in self._manifest["graphs"][graph]["outputs"]]
        if graph in self._modules:
            outputs = run_module(self._modules[graph], feeds, names)
        else:
            outputs = self._runners[graph](feeds)
        for name, value in outputs.items():
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise RequestError(f"graph {graph}: output {name} is infinite or NaN on its own golden inputs")
            self._golden[f"{graph}/outputs/{name}"] = value
        for name, value in feeds.items():
            self._golden[f"{graph}/inputs/{name}"] = value

    def _checked(self, graph: str, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        spec = Graph.from_json(self._manifest["graphs"][graph])
        arrays = {name: to_numpy(value) for name, value in feeds.items()}
        return check_feeds(spec, arrays, f"graph {graph}")

    def split(self, name: str, arrays: Mapping[str, Any], teacher_value: float | None = None) -> None:
        """The task's own arrays of the "validation" part (gates, searches) or the "test" part (read once)."""
        save_npz(self.root / SPLITS[name], {key: to_numpy(value) for key, value in arrays.items()})
        if teacher_value is not None:
            self._manifest["teacher_values"][name] = float(teacher_value)

    def uses(self, uses: Mapping[str, Mapping[str, float]]) -> None:
        """Per use (e.g. "query", "index"): graph -> how often it is called."""
        self._manifest["uses"].update({use: dict(calls) for use, calls in uses.items()})

    def settings(self, settings: Mapping[str, Any]) -> None:
        """What the glue gets as `settings`: JSON values."""
        self._manifest["settings"].update(settings)

    def asset(self, name: str, source: str | Path | bytes | Mapping[str, Any]) -> None:
        """A file that the glue needs on the device: a path, bytes, or a mapping of arrays (written as .npz)."""
        path = self.root / "assets" / name
        if not path.resolve().is_relative_to((self.root / "assets").resolve()):
            raise ValueError(f"asset {name!r} would be written outside the bundle")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
        elif isinstance(source, Mapping):
            save_npz(path, {key: to_numpy(value) for key, value in source.items()})
        else:
            shutil.copyfile(source, path)

    def metric(self, name: str, value: float, *, split: str, higher_is_better: bool = True, **more: Any) -> None:
        """A metric of the float module, measured while training (e.g. n=, ci95=, of="teacher")."""
        self._manifest["metrics"].append(
            {"name": name, "value": float(value), "split": split, "higher_is_better": higher_is_better, **more}
        )

    def teacher(self, **description: Any) -> None:
        """The teacher beside which the report shows the student: name, macs, parameters, metric, value, ..."""
        self._manifest["teacher"] = {**(self._manifest["teacher"] or {}), **description}

    def lineage(self, lineage: Mapping[str, Any]) -> None:
        """Data set and package versions and licences, git commit, which statistics were per process, ..."""
        self._manifest["lineage"].update(lineage)

    def _finish(self) -> None:
        missing = [name for name in self._manifest["graphs"] if f"{name}/outputs/" not in " ".join(self._golden)]
        if missing:
            raise ValueError(f"graph {missing[0]!r} has no golden inputs: call writer.golden({missing[0]!r}, feeds)")
        if not self._manifest["uses"]:
            raise ValueError('no use was given: call writer.uses({"query": {graph: calls}})')
        unknown = {g for calls in self._manifest["uses"].values() for g in calls} - set(self._manifest["graphs"])
        if unknown:
            raise ValueError(f"uses name the graph {sorted(unknown)[0]!r}, which was not added")
        if self._calibration:
            save_npz(self.root / "calibration.npz", self._calibration)
        save_npz(self.root / "golden.npz", self._golden)
        (self.root / "assets").mkdir(exist_ok=True)
        self._manifest["files"] = sha256_tree(self.root)
        write_json(self.root / "bundle.json", self._manifest)


def to_numpy(value: Any) -> np.ndarray:
    """An array of an array or tensor."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def check_feeds(graph: Graph, feeds: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """`feeds` in the graph's order, contiguous. Raises RequestError if names, dtypes or shapes do not match."""
    names = [spec.name for spec in graph.inputs]
    if set(feeds) != set(names):
        raise RequestError(f"{where}: inputs are {', '.join(sorted(feeds))}, but the graph takes {', '.join(names)}")
    checked, count = {}, None
    for spec in graph.inputs:
        value = np.ascontiguousarray(feeds[spec.name])
        if value.dtype.name != spec.dtype:
            raise RequestError(f"{where}: input {spec.name} is {value.dtype.name}, but the graph takes {spec.dtype}")
        fits = value.ndim == len(spec.shape) and all(
            not isinstance(want, int) or want == have
            for want, have in zip(spec.shape[1:], value.shape[1:], strict=True)
        )
        if not fits:
            raise RequestError(f"{where}: input {spec.name} has shape {value.shape}, but the graph takes {spec.shape}")
        if count is not None and len(value) != count:
            raise RequestError(f"{where}: inputs have {count} and {len(value)} items; give equally many")
        count = len(value)
        checked[spec.name] = value
    if count == 0:
        raise RequestError(f"{where}: there are no items")
    return checked


def run_module(module: nn.Module, feeds: Arrays, outputs: Sequence[str], chunk: int = 32) -> dict[str, np.ndarray]:
    """Outputs of an eval-mode module by name, (n, ...), computed in chunks (of one where the batch is fixed)."""
    torch = require("torch", "train")
    from torch.utils._pytree import tree_leaves

    n = len(next(iter(feeds.values())))
    parts: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for start in range(0, n, chunk):
            batch = [torch.from_numpy(np.array(value[start : start + chunk])) for value in feeds.values()]
            parts.append([leaf.numpy() for leaf in tree_leaves(module(*batch))])
    if len(parts[0]) != len(outputs):
        raise ValueError(f"the module gives {len(parts[0])} outputs, but {len(outputs)} names were given")
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(outputs)}


def _rows(tensor: Any, count: int) -> Any:
    """The first `count` rows of a tensor, repeating it if it has fewer."""
    repeats = -(-count // len(tensor))
    return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:count].contiguous()


def _export_program(name: str, module: nn.Module, examples: Mapping[str, Any], dynamic_batch: bool) -> Any:
    torch = require("torch", "train")
    batch = torch.export.Dim("batch")
    shapes = [{0: batch} if dynamic_batch else {} for _ in examples]
    if any(p.kind == p.VAR_POSITIONAL for p in _parameters(module)):
        dynamic_shapes: Any = (tuple(shapes),)
    else:
        dynamic_shapes = tuple(shapes)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, tuple(examples.values()), dynamic_shapes=dynamic_shapes)
    except Exception as error:  # torch.export raises many types
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise RequestError(
            f"graph {name}: torch.export failed ({lines[0].strip()})"
            + ("; if its batch must stay fixed, export it with dynamic_batch=False" if dynamic_batch else "")
        ) from error


def _parameters(module: nn.Module) -> list[Any]:
    import inspect

    return list(inspect.signature(module.forward).parameters.values())


def _graph_of(name: str, program: Any, inputs: list[str], outputs: list[str], dynamic_batch: bool) -> Graph:
    """The program's inputs and outputs under the given names."""
    from torch.export.graph_signature import OutputKind

    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    results = [spec.arg.name for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    if len(results) != len(outputs):
        raise ValueError(f"graph {name}: the module gives {len(results)} outputs, {len(outputs)} names were given")

    def specs(names: list[str], nodes: Sequence[str]) -> tuple[TensorSpec, ...]:
        found = []
        for public, node in zip(names, nodes, strict=True):
            shape = [axis if isinstance(axis, int) else str(axis) for axis in values[node].shape]
            if dynamic_batch and not isinstance(shape[0], str):
                raise RequestError(f"graph {name}: {public} has shape {tuple(shape)}: its first axis must be the batch")
            shape[0] = "batch" if dynamic_batch else 1
            found.append(TensorSpec(public, str(values[node].dtype).removeprefix("torch."), tuple(shape)))
        return tuple(found)

    return Graph(name, specs(inputs, program.graph_signature.user_inputs), specs(outputs, results))


def _write_onnx(program: Any, path: Path, graph: Graph, examples: Mapping[str, Any]) -> str | None:
    """Write the ONNX file, slimmed where that changes nothing else; give the reason why it is not slimmed."""
    from targets.target import get_target

    export_onnx(program, path, [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs])
    slim = path.with_name("slim.onnx")
    reason = slim_onnx(path, slim)
    if reason is None:
        feeds = {key: value.numpy() for key, value in examples.items()}
        before, after = (get_target("onnx").open(graph, (file,), "fp32", {})(feeds) for file in (path, slim))
        changed = failure(compare(before, after), "fp32")
        reason = f"onnxslim changed the outputs: {changed}" if changed else None
    if reason is None:
        slim.replace(path)
    slim.unlink(missing_ok=True)
    return reason


def _check_files(
    name: str, graph: Graph, folder: Path, feeds: Arrays, reference: Mapping[str, np.ndarray]
) -> dict[str, Parity]:
    """Compare the ONNX file and the exported program with the module's outputs."""
    from targets.target import get_target

    names = [spec.name for spec in graph.outputs]
    checks = {
        "onnx": compare(reference, get_target("onnx").open(graph, (folder / "model.onnx",), "fp32", {})(feeds)),
        "program": compare(reference, run_module(load_program(folder / "program.pt2").module(), feeds, names)),
    }
    for kind, parity in checks.items():
        reason = failure(parity, "fp32")
        if reason is not None:
            raise RequestError(f"graph {name}: the exported {kind} does not repeat the module: it {reason}")
    return checks
