"""Target "c": a full-integer graph as C99 for microcontrollers. The session here runs the same C, compiled by gcc."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import MissingError, RequestError
from profiles.storage import read_json
from targets.c.lowering import UnsupportedOperator
from targets.c.ports import from_model, to_model
from targets.graph import Graph
from targets.quantize import check_options, choice
from targets.session import GraphSession
from targets.target import CompiledGraph, GraphSource

OPTIONS = ("optimization",)
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


class C:
    """Target "c". Options: optimization (O2 or O3), of the compiler here and of the firmware."""

    name = "c"
    precisions: tuple[str, ...] = ("int8",)

    def version(self) -> str:
        return _gcc_version(_gcc())

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        from targets.tflite import unsupported

        if precision not in self.precisions:
            return "C for microcontrollers is int8 only: use --precision int8"
        return unsupported(source)

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        """model.c, model.h, main.c, Makefile and model.json; beside them the model.tflite that they were made of."""
        check_options(options, OPTIONS, self.name)
        optimization = choice(options, "optimization", ("O2", "O3"))
        from targets.c.generate import description, generate, write
        from targets.tflite import compile_int8
        from targets.tflite.schema import read_model

        with tempfile.TemporaryDirectory() as folder:
            try:
                compiled = compile_int8(source, Path(folder), {})
                generated = generate(read_model(Path(folder) / "model.tflite"), source.graph.name)
            except (UnsupportedOperator, RequestError) as error:  # the reason names each operator and its place
                return CompiledGraph((), "int8", problem=str(error))
            shutil.copyfile(Path(folder) / "model.tflite", out / "model.tflite")
        files = write(generated, out, optimization)
        about = description(generated)
        return CompiledGraph(
            files,
            "int8",
            compiled.float_operators,
            compiled.quantization,
            compiled.notes,
            memory={"arena": generated.arena_bytes},
            build={key: about[key] for key in ("operators", "macs", "arena_lower_bound", "constant_bytes")},
        )

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> CSession:
        check_options(options, OPTIONS, self.name)
        return CSession(graph, files[0].parent, choice(options, "optimization", ("O2", "O3")))


class CSession(GraphSession):
    """The generated C as a shared library. It has static memory, so every session loads a copy of its own; rows are run
    one by one. Inputs are quantised and outputs dequantised here, by the scales in model.json."""

    def __init__(self, graph: Graph, folder: Path, optimization: str) -> None:
        gcc = _gcc()
        about = read_json(folder / "model.json")
        with tempfile.TemporaryDirectory() as build:
            library = Path(build) / "model.so"
            command = [gcc, *FLAGS, f"-{optimization}", "-o", str(library), str(folder / "model.c")]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"gcc cannot compile {folder / 'model.c'}: {done.stderr.strip()[-2000:]}")
            self._library = ctypes.CDLL(str(library))  # mapped from here on: the file may go
        self._call = getattr(self._library, f"{about['name']}_run")
        self._inputs, self._outputs = (self._ports(about, direction) for direction in ("input", "output"))
        details = {
            "runtime": "c",
            "provider": f"CPU (gcc {_gcc_version(gcc)}, C99)",
            "threads": 1,
            "optimization": optimization,
            "output_steps": {
                spec.name: entry["scale"] for spec, (entry, _) in zip(graph.outputs, self._outputs, strict=True)
            },
        }
        super().__init__(graph, details)

    def _ports(self, about: Mapping[str, Any], direction: str) -> list[tuple[dict[str, Any], np.ndarray]]:
        """What model.json says of each input or output, and the model's own memory for it as an array."""
        address = getattr(self._library, f"{about['name']}_{direction}")
        address.restype = ctypes.c_void_p
        ports = []
        for index, entry in enumerate(about[f"{direction}s"]):
            memory = (ctypes.c_byte * entry["bytes"]).from_address(address(index))
            ports.append((entry, np.frombuffer(memory, entry["dtype"]).reshape(entry["shape"])))
        return ports

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = self._inputs[0][1].shape[0]  # of one run
        count = len(next(iter(feeds.values())))
        values = [to_model(value, entry) for value, (entry, _) in zip(feeds.values(), self._inputs, strict=True)]
        found: list[list[np.ndarray]] = [[] for _ in self._outputs]
        for start in range(0, count, rows):
            for value, (_, memory) in zip(values, self._inputs, strict=True):
                memory[...] = value[start : start + rows].reshape(memory.shape)
            self._call()
            for kept, (_, memory) in zip(found, self._outputs, strict=True):
                kept.append(memory.copy())
        return {
            spec.name: from_model(np.concatenate(kept), entry, spec.dtype)
            for spec, kept, (entry, _) in zip(self.graph.outputs, found, self._outputs, strict=True)
        }


def _gcc() -> str:
    """The path of gcc. Raises MissingError if there is none."""
    found = shutil.which("gcc")
    if found is None:
        raise MissingError("gcc is not installed: apt install gcc")
    return found


def _gcc_version(gcc: str) -> str:
    return subprocess.run([gcc, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


target = C()
