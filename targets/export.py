"""Write a bundle: a student on disk, checked against its modules as it is written. torch is imported inside."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.errors import RequestError, require
from profiles.storage import atomic_directory, save_npz, sha256_tree, write_json
from targets.bundle import FORMAT, SPLITS
from targets.graph import Arrays, Graph, check_feeds
from targets.onnx_files import export_onnx, slim_onnx
from targets.parity import Parity, compare, failure
from targets.programs import save_program
from targets.session import ModuleSession, open_program
from targets.tracing import export_program, graph_of, io_names, rows

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


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
        self._references: dict[str, Callable[[Arrays], dict[str, np.ndarray]]] = {}  # float outputs of each graph
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
        torch = require("torch", "train")
        self._new_name(name)
        module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        examples = {key: rows(torch.as_tensor(value).cpu(), 2 if dynamic_batch else 1) for key, value in inputs.items()}
        program = export_program(name, module, examples, dynamic_batch)
        return self._add(name, program, module, list(inputs), list(outputs), examples, weights or name)

    def add_program(self, name: str, program: ExportedProgram, examples: Mapping[str, Any]) -> Graph:
        """Take a user's exported program. Its inputs and outputs keep their names; `examples` (batch, ...) by name."""
        self._new_name(name)
        _, outputs = io_names(program)
        return self._add(name, program, program.module(), list(examples), outputs, examples, name)

    def _new_name(self, name: str) -> None:
        if not name.isidentifier() or name in self._manifest["graphs"]:
            raise ValueError(f"graph name {name!r} is no identifier or was used before")

    def _add(
        self,
        name: str,
        program: ExportedProgram,
        module: nn.Module,
        inputs: list[str],
        outputs: list[str],
        examples: Mapping[str, Any],
        weights: str,
    ) -> Graph:
        """Write program, ONNX file and weights of one graph, and check them against the module."""
        torch = require("torch", "train")
        graph = graph_of(name, program, inputs, outputs)
        reference = ModuleSession(graph, module)
        batch = graph.inputs[0].shape[0]
        counts = (1, 3) if isinstance(batch, str) else (batch,)
        with self._new_folder(name) as folder:
            save_program(program, folder / "program.pt2")
            slim_reason = _write_onnx(program, folder / "model.onnx", graph, examples)
            for count in counts:
                feeds = {key: rows(torch.as_tensor(value), count).numpy() for key, value in examples.items()}
                checks = _check_files(name, graph, folder, feeds, reference(feeds))
            weights_file = self._write_weights(weights, module)
        self._references[name] = reference
        self._manifest["graphs"][name] = {
            **graph.to_json(),
            "onnx": f"graphs/{name}/model.onnx",
            "program": f"graphs/{name}/program.pt2",
            "weights": weights_file,
            "torch": torch.__version__,
            "slimmed": slim_reason is None,
            "slim_reason": slim_reason,
            "parity": {kind: parity.to_json() for kind, parity in checks.items()},
        }
        return graph

    @contextlib.contextmanager
    def _new_folder(self, name: str) -> Iterator[Path]:
        """The graph's folder; it is gone again if the graph cannot be added."""
        folder = self.root / "graphs" / name
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder)
            raise

    def add_onnx(self, graph: Graph, path: Path, reference: Callable[[Arrays], dict[str, np.ndarray]]) -> None:
        """Take a user's ONNX file as it is, with its external weights. `reference` gives its float outputs."""
        from targets.onnx import copy_onnx

        self._new_name(graph.name)
        with self._new_folder(graph.name) as folder:
            copy_onnx(path, folder)
        self._references[graph.name] = reference
        self._manifest["graphs"][graph.name] = {
            **graph.to_json(),
            "onnx": f"graphs/{graph.name}/model.onnx",
            "program": None,
            "weights": None,
            "torch": None,
        }

    def reference(self, graph: str) -> Callable[[Arrays], dict[str, np.ndarray]]:
        """What gives the float outputs of a graph: feeds -> outputs."""
        return self._references[graph]

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
        outputs = self._references[graph](feeds)
        for name, value in outputs.items():
            if len(value) != len(next(iter(feeds.values()))):
                raise RequestError(
                    f"graph {graph}: output {name} has shape {value.shape}: its first axis is not the batch"
                )
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


def _write_onnx(program: Any, path: Path, graph: Graph, examples: Mapping[str, Any]) -> str | None:
    """Write the ONNX file, slimmed where that changes nothing else; give the reason why it is not slimmed."""
    from targets.target import get_target

    export_onnx(program, path, [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs])
    slim = path.with_name("slim.onnx")
    reason = slim_onnx(path, slim)
    if reason is None:
        feeds = {key: np.asarray(value) for key, value in examples.items()}
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

    checks = {
        "onnx": compare(reference, get_target("onnx").open(graph, (folder / "model.onnx",), "fp32", {})(feeds)),
        "program": compare(reference, open_program(graph, folder / "program.pt2")(feeds)),
    }
    for kind, parity in checks.items():
        reason = failure(parity, "fp32")
        if reason is not None:
            raise RequestError(f"graph {name}: the exported {kind} does not repeat the module: it {reason}")
    return checks
