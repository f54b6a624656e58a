"""Generated C against TFLite-Micro: many models in one library, each beside the interpreter of the same file."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st

from targets.c.generate import Generated, generate, translation_unit
from targets.tflite.schema import Model, read_model

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


class Library:
    """Models compiled into one shared library; `run(i, inputs)` runs the i-th."""

    def __init__(self, files: Sequence[bytes], folder: Path, flags: Sequence[str] = ("-O0",)) -> None:
        self.models = [generate(read_model(raw), f"m{i}") for i, raw in enumerate(files)]
        (folder / "model.h").write_text("", encoding="utf-8")
        (folder / "models.c").write_text(translation_unit(self.models), encoding="utf-8")
        command = ["gcc", *WARNINGS, *flags, "-shared", "-fPIC", "-o", "models.so", "models.c"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:2000]
        self._library = ctypes.CDLL(str(folder / "models.so"))
        for i in range(len(files)):
            for port in ("input", "output"):
                self._function(i, port).restype = ctypes.c_void_p

    def _function(self, i: int, name: str) -> Any:
        return getattr(self._library, f"m{i}_{name}")

    def run(self, i: int, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for j, value in enumerate(inputs):
            ctypes.memmove(self._function(i, "input")(j), np.ascontiguousarray(value).tobytes(), value.nbytes)
        self._function(i, "run")()
        outputs = []
        for j, tensor in enumerate(self.models[i].model.outputs):
            raw = ctypes.string_at(self._function(i, "output")(j), tensor.bytes)
            outputs.append(np.frombuffer(raw, tensor.dtype).reshape(tensor.shape))
        return outputs


MAIN = """#include <stdio.h>
#include <stdlib.h>

struct model { int inputs, outputs; void (*run)(void); void *(*input)(int); void *(*output)(int); int bytes[40]; };
static const struct model models[] = {
%s
};

int main(void) {
  for (unsigned i = 0; i < sizeof models / sizeof *models; i++) {
    const struct model *m = models + i;
    const int *bytes = m->bytes;
    for (int j = 0; j < m->inputs; j++, bytes++) {
      if (fread(m->input(j), 1, (size_t)*bytes, stdin) != (size_t)*bytes) return 2;
    }
    m->run();
    for (int j = 0; j < m->outputs; j++, bytes++) fwrite(m->output(j), 1, (size_t)*bytes, stdout);
  }
  return 0;
}
"""
SANITIZERS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def run_sanitized(files: Sequence[bytes], inputs: Sequence[Sequence[np.ndarray]], folder: Path) -> list[bytes]:
    """The outputs of every model, once each, from a program under ASan and UBSan. It stops at the first finding."""
    models = [generate(read_model(raw), f"m{i}") for i, raw in enumerate(files)]
    rows = []
    for i, generated in enumerate(models):
        ports = [*generated.model.inputs, *generated.model.outputs]
        counts = f"{len(generated.model.inputs)}, {len(generated.model.outputs)}"
        bytes_ = ", ".join(str(tensor.bytes) for tensor in ports)
        rows.append(f"  {{{counts}, m{i}_run, m{i}_input, m{i}_output, {{{bytes_}}}}},")
    (folder / "model.h").write_text("", encoding="utf-8")
    text = translation_unit(models) + MAIN % "\n".join(rows)
    (folder / "main.c").write_text(text, encoding="utf-8")
    command = ["gcc", *WARNINGS, *SANITIZERS, "-o", "main", "main.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    stream = b"".join(np.ascontiguousarray(value).tobytes() for values in inputs for value in values)
    ran = subprocess.run([folder / "main"], input=stream, capture_output=True)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr.decode()[:4000]
    outputs, start = [], 0
    for generated in models:
        size = sum(tensor.bytes for tensor in generated.model.outputs)
        outputs.append(ran.stdout[start : start + size])
        start += size
    return outputs


class Micro:
    """TFLite-Micro's interpreter on one file."""

    def __init__(self, raw: bytes, arena_bytes: int = 1 << 20, outputs: int | None = None) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self.outputs = len(read_model(raw).outputs) if outputs is None else outputs
        self._interpreter = runtime.Interpreter.from_bytes(raw, arena_size=arena_bytes)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for i, value in enumerate(inputs):
            self._interpreter.set_input(value, i)
        self._interpreter.invoke()
        return [self._interpreter.get_output(i) for i in range(self.outputs)]

    def arena_bytes(self) -> int:
        """What the interpreter says it used of its arena; it writes that to the standard error's descriptor."""
        with tempfile.TemporaryFile() as file:
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                self._interpreter.print_allocations()
            finally:
                os.dup2(kept, 2)
                os.close(kept)
            file.seek(0)
            said = file.read().decode()
        found = re.search(r"Arena allocation total (\d+) bytes", said)
        assert found is not None, said
        return int(found.group(1))


def random_inputs(model: Model, rng: np.random.Generator) -> list[np.ndarray]:
    """Inputs of a model over the whole range of their type; int32 inputs are small, as indices are."""
    return [
        rng.integers(-128, 128, tensor.shape).astype(np.int8)
        if tensor.dtype == "int8"
        else rng.integers(-30000, 30000, tensor.shape).astype(tensor.dtype)
        for tensor in model.inputs
    ]


def check_bit_exact(
    files: Sequence[bytes], folder: Path, runs: int = 2, inputs: Any = random_inputs
) -> list[Generated]:
    """Every file gives in C what it gives in TFLite-Micro, for every input drawn, and its arena is smaller."""
    library, rng = Library(files, folder), np.random.default_rng(0)
    for i, raw in enumerate(files):
        model = library.models[i]
        micro = Micro(raw, outputs=len(model.model.outputs))
        for _ in range(runs):
            feeds = inputs(model.model, rng)
            expected, got = micro.run(feeds), library.run(i, feeds)
            for a, b in zip(expected, got, strict=True):
                assert a.dtype == b.dtype and a.size == b.size
                wrong = np.flatnonzero(a.ravel() != b.ravel())
                assert not len(wrong), (
                    f"{describe(model)}: {len(wrong)} of {a.size} differ: {a.ravel()[wrong[:8]]} {b.ravel()[wrong[:8]]}"
                )
        assert model.arena_lower_bound <= model.arena_bytes < micro.arena_bytes(), describe(model)
    return library.models


def describe(model: Generated) -> str:
    """The operators of a model with shapes, quantisation and options, to find what failed."""
    lines = []
    for operator in model.model.operators:
        tensors = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None]
        shown = [(tensor.shape, tensor.scale.tolist(), tensor.zero_point.tolist()) for tensor in tensors]
        lines.append(f"{operator.kind} {shown} {dict(operator.options)}")
    return "; ".join(lines)


def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """`count` examples as hypothesis chooses them, to be compiled together: one gcc run per case would take minutes."""
    found: list[Any] = []

    @hypothesis.settings(
        max_examples=count, database=None, derandomize=True, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found
