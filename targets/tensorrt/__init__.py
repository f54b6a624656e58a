"""TensorRT, for Jetson and data-centre GPUs: the engine is built on the device itself.

`targets.tensorrt_rtx` is the same code over the module `tensorrt_rtx`, which builds without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from profiles.errors import MissingError, RequestError
from targets.graph import Graph
from targets.onnx_branches import first_with_body
from targets.quantize import WEIGHTED, check_options, excluded_layers, option
from targets.target import CompiledGraph, GraphSource
from targets.tensorrt.cuda import EXTRA, device_count

OPTIONS = ("compute_capabilities", "batch", "workspace_bytes", "exclude_layers")
DEFAULT_BATCH = (1, 8, 64)
DEFAULT_WORKSPACE_BYTES = 1 << 30
ON_DEVICE = "copy this artifact to the device and run there: compressor verify ARTIFACT --device DEVICE"


class TensorRtTarget:
    """Options: compute_capabilities (list such as [SM86, SM89]; RTX only), batch ([min, opt, max] rows of a dynamic
    batch), workspace_bytes; for int8 exclude_layers (list of tensor names)."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    sensitivity: ClassVar[Mapping[str, Any]] = {"operators": WEIGHTED, "symmetric": True}

    def __init__(self, name: str, module: str, default_capabilities: tuple[str, ...], builds_without_gpu: bool) -> None:
        self.name, self.module = name, module
        self.default_capabilities, self.builds_without_gpu = default_capabilities, builds_without_gpu

    def version(self) -> str:
        """The module's version; for `tensorrt`, whose engines are made on the device, "on the device" if it is not
        installed here."""
        if importlib.util.find_spec(self.module) is None and not self.builds_without_gpu:
            return "on the device"
        return self._module().__version__

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        if precision not in self.precisions:
            return f"{self.name} has no precision {precision}: there are {', '.join(self.precisions)}"
        axes = [(spec.name, axis) for spec in source.graph.inputs for axis in spec.shape[1:] if isinstance(axis, str)]
        if axes:
            return (
                f"input {axes[0][0]} has the dynamic axis {axes[0][1]}: {self.name} gets fixed axes besides the batch"
            )
        if precision == "fp16" and (body := first_with_body(source.onnx)):
            return (
                f"{body} depends on the data: what is inside cannot be proven in float16 without a GPU; export the"
                " branch that you need, or take fp32 or int8"
            )
        return None

    def not_runnable(self) -> str | None:
        """Why engines cannot run on this machine; None if they can."""
        if not device_count():
            return "no NVIDIA GPU on this machine"
        return None

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        from targets.tensorrt.numerics import check_typed, write_typed

        check_options(options, OPTIONS, self.name)
        batch, capabilities, workspace = self._settings(options, precision)
        typed = write_typed(source, out, precision, excluded_layers(options))
        proof = check_typed(source, out / "model.onnx", precision)
        problem = typed.problem or (proof["failure"] and f"the {precision} network {proof['failure']}")
        onnx_files = tuple(sorted(path.name for path in out.iterdir()))
        common: dict[str, Any] = {
            "precision": precision, "float_operators": typed.float_operators, "quantization": typed.quantization,
            "notes": typed.notes, "problem": problem,
        }  # fmt: skip
        if not self.builds_without_gpu and not (device_count() and importlib.util.find_spec(self.module)):
            command = self._command(source.graph, batch, workspace)
            (out / "build.sh").write_text(f"#!/bin/sh\n# builds the engine, on the device\nset -e\n{command}\n")
            where = f"in graphs/{source.graph.name} of this artifact"
            files = sorted((path.name for path in out.iterdir()), key=lambda name: name != "model.onnx")
            packed = {"numerics": proof, "batch": list(batch), "command": command}
            deferred = f"{self.name} builds engines on the device only; there, {where}: {command}"
            return CompiledGraph(tuple(files), **common, build=packed, deferred=deferred)
        from targets.tensorrt.engine import build_engine

        built = build_engine(
            self._module(), out / "model.onnx", out / "model.engine", source.graph, compute_capabilities=capabilities,
            batch=batch, workspace_bytes=workspace,
        )  # fmt: skip
        if precision == "int8" and not built["qdq"]:
            common["problem"] = "nothing could be quantised: the network has no Q/DQ pair"
        for name in onnx_files:  # the engine holds its weights
            (out / name).unlink()
        return CompiledGraph(("model.engine",), **common, build={**built, "numerics": proof}, on_device=ON_DEVICE)

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> Any:
        from targets.tensorrt.session import TensorRtSession

        check_options(options, OPTIONS, self.name)
        if reason := self.not_runnable():
            raise MissingError(reason)
        return TensorRtSession(self._module(), self.name, graph, files[0])

    def _module(self) -> ModuleType:
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError:
            raise MissingError(
                f"{self.module} is not installed: pip install 'edge-compressor[{EXTRA}]' (proprietary licence)"
            ) from None

    def _settings(self, options: Mapping[str, Any], precision: str) -> tuple[tuple[int, int, int], list[str], int]:
        batch = option(options, "batch", DEFAULT_BATCH, (list, tuple))
        if (
            len(batch) != 3
            or not all(isinstance(rows, int) for rows in batch)
            or not 0 < batch[0] <= batch[1] <= batch[2]
        ):
            raise RequestError(f"runtime option batch: {list(batch)} is not [min, opt, max]")
        capabilities = list(option(options, "compute_capabilities", self.default_capabilities, (list, tuple)))
        if precision == "fp32" and "SM75" in capabilities:
            raise RequestError(
                "runtime option compute_capabilities: SM75 has no fp32 engines here: ask for fp16 or int8"
            )
        workspace = option(options, "workspace_bytes", DEFAULT_WORKSPACE_BYTES, int)
        return (batch[0], batch[1], batch[2]), capabilities, workspace

    def _command(self, graph: Graph, batch: tuple[int, int, int], workspace: int) -> str:
        """trtexec's command line for this graph."""
        words = ["trtexec", "--onnx=model.onnx", "--saveEngine=model.engine", "--stronglyTyped", "--noTF32"]
        words.append(f"--memPoolSize=workspace:{workspace >> 20}")
        if any(isinstance(spec.shape[0], str) for spec in graph.inputs):
            for kind, rows in zip(("min", "opt", "max"), batch, strict=True):
                shapes = [f"{spec.name}:" + "x".join(map(str, spec.concrete(batch=rows))) for spec in graph.inputs]
                words.append(f"--{kind}Shapes={','.join(shapes)}")
        return shlex.join(words)


target = TensorRtTarget("tensorrt", "tensorrt", (), builds_without_gpu=False)
