"""A full-integer `.tflite` as C99: `generate` lowers every operator and plans the arena, `write` writes the files.

generated = generate(read_model("model.tflite"), "wake_word")
write(generated, Path("out"))       # model.c, model.h, main.c, Makefile, model.json
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from profiles.storage import atomic_file, write_json
from targets.c.emitter import C_TYPES, CEmitter, Memory, kernel_order, kernel_text
from targets.c.fixed_point import zero_point_of
from targets.c.lowering import LOWERINGS, UnsupportedOperator
from targets.c.macs import total_macs
from targets.tflite.schema import FLOATS, Model, Operator, Tensor

TEMPLATES = Path(__file__).parent / "templates"
FILES = ("model.c", "model.h", "main.c", "Makefile", "model.json")
LINE = 112
# fmt: off
KEYWORDS = frozenset((
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "main", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
))
# fmt: on


@dataclass(frozen=True)
class Generated:
    """The C of one model, not written yet. `body` needs the kernel headers `kernels` (in this order) before it."""

    name: str
    model: Model
    kernels: tuple[str, ...]
    body: str
    arena_bytes: int
    arena_lower_bound: int
    constant_bytes: int


def generate(model: Model, name: str) -> Generated:
    """Lower every operator and plan the memory.

    Raises UnsupportedOperator naming every operator that cannot be lowered, each with its place, before any is written.
    """
    load_lowerings()
    emitter = CEmitter(model, c_name(name))
    problems = [*_variables(model), *(problem for o in model.operators if (problem := _lower(o, emitter)) is not None)]
    if problems:
        raise UnsupportedOperator("; ".join(problems))
    memory = emitter.memory()
    constant_bytes = sum(values.nbytes for values in emitter.constants.values())
    body = _body(emitter, memory, constant_bytes)
    return Generated(
        emitter.prefix,
        model,
        tuple(kernel_order(emitter.kernels)),
        body,
        memory.plan.arena_bytes,
        memory.plan.lower_bound,
        constant_bytes,
    )


def write(generated: Generated, out: Path, optimization: str = "O2") -> tuple[str, ...]:
    """Write the files of one model into an existing directory; gives their names. `optimization`: the Makefile's."""
    texts = {
        "model.c": translation_unit([generated]),
        "model.h": header(generated),
        "main.c": _main(generated),
        "Makefile": _template("Makefile", optimization=optimization),
    }
    for file, text in texts.items():
        with atomic_file(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(out / "model.json", description(generated))
    return FILES


def translation_unit(models: Sequence[Generated], *, one_arena: bool = False) -> str:
    """One C file of several models with different names; each kernel is in it once.

    `one_arena`: for all of them, as large as the largest needs. Then a model's inputs and outputs stand only until the
    next one is given its own inputs.
    """
    kernels = kernel_order(kernel for model in models for kernel in model.kernels)
    return _template(
        "model.c",
        title=", ".join(_title(model) for model in models),
        kernels="\n".join(kernel_text(kernel) for kernel in kernels),
        arenas=_shared_arena(models) if one_arena else "\n".join(_arena(m.name, m.arena_bytes) for m in models),
        models="\n".join(model.body for model in models),
    )


def _arena(name: str, size: int) -> str:
    return f"static union {{\n  int64_t alignment;\n  int8_t bytes[{max(1, size)}];\n}} {name}_arena;\n"


def _shared_arena(models: Sequence[Generated]) -> str:
    names = "".join(f"#define {model.name}_arena shared_arena\n" for model in models)
    return _arena("shared", max(model.arena_bytes for model in models)) + names


def description(generated: Generated) -> dict[str, Any]:
    """model.json: what a session and a firmware need to know. Integer inputs have no scale and no zero point."""
    return {
        "name": generated.name,
        "arena_bytes": generated.arena_bytes,
        "arena_lower_bound": generated.arena_lower_bound,
        "constant_bytes": generated.constant_bytes,
        "inputs": [_port(tensor) for tensor in generated.model.inputs],
        "outputs": [_port(tensor) for tensor in generated.model.outputs],
        "operators": dict(sorted(generated.model.operator_counts().items())),
        "macs": total_macs(generated.model),
        "kernels": list(generated.kernels),
    }


def header(generated: Generated) -> str:
    """model.h."""
    ports = [("INPUT", i, t) for i, t in enumerate(generated.model.inputs)]
    ports += [("OUTPUT", i, t) for i, t in enumerate(generated.model.outputs)]
    return _template(
        "model.h",
        title=_title(generated),
        name=generated.name,
        guard=generated.name.upper(),
        arena_bytes=generated.arena_bytes,
        constant_bytes=generated.constant_bytes,
        input_count=len(generated.model.inputs),
        output_count=len(generated.model.outputs),
        macros="\n".join(_macros(generated.name.upper(), *port) for port in ports),
    )


def c_name(name: str) -> str:
    """A C identifier of a graph's name."""
    cleaned = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"model_{cleaned}" if cleaned in KEYWORDS or not cleaned or not re.match("[A-Za-z]", cleaned) else cleaned


@functools.cache
def load_lowerings() -> None:
    """Import every module `lower_*` of this package: each registers its operators."""
    package = importlib.import_module("targets.c")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("lower_"):
            importlib.import_module(f"targets.c.{module.name}")


def _lower(operator: Operator, emitter: CEmitter) -> str | None:
    """Write one operator; gives what is wrong with it if it is not supported."""
    emitter.start(operator)
    tensors = [tensor for tensor in operator.inputs + operator.outputs if tensor is not None]
    floats = [tensor.name for tensor in tensors if tensor.dtype in FLOATS]
    if operator.kind not in LOWERINGS:
        return f"{operator.place}: there is no C for this operator"
    if floats:
        return f"{operator.place}: tensor {floats[0]} is float; only full-integer files become C"
    unknown = [tensor for tensor in tensors if tensor.dtype not in C_TYPES]
    if unknown:
        return f"{operator.place}: tensor {unknown[0].name} has elements of type {unknown[0].dtype}"
    try:
        LOWERINGS[operator.kind](operator, emitter)
    except UnsupportedOperator as error:
        return str(error)
    return None


def _variables(model: Model) -> list[str]:
    """Tensors that nothing writes before they are read: state that a file keeps between runs."""
    written = {tensor.index for tensor in model.inputs}
    problems = []
    for operator in model.operators:
        for tensor in operator.inputs:
            if tensor is not None and not tensor.is_constant and tensor.index not in written:
                problems.append(
                    f"{operator.place}: nothing writes its input {tensor.name}; state between runs is not kept"
                )
        written |= {tensor.index for tensor in operator.outputs}
    return problems


def _body(emitter: CEmitter, memory: Memory, constant_bytes: int) -> str:
    model, name = emitter.model, emitter.prefix
    copies = [t for t in model.outputs if emitter.is_constant(t)]
    statements = [line for step in emitter.steps for line in _step_lines(step.operator, step.statements)]
    for tensor in copies:
        place = _address(name, memory.offset_of[tensor.index])
        statements.append(f"  memcpy({place}, {emitter.ref(tensor)}, {tensor.bytes});")
    pointers = [
        f"  {ctype} *const {pointer} = ({ctype} *){_address(name, offset)};"
        for pointer, ctype, offset in memory.pointers
        if any(re.search(rf"\b{pointer}\b", line) for line in statements)
    ]
    ports = {
        key: "\n".join(
            f"  case {i}: return {_address(name, memory.offset_of[tensor.index])};" for i, tensor in enumerate(tensors)
        )
        for key, tensors in (("inputs", model.inputs), ("outputs", model.outputs))
    }
    return _template(
        "graph.c",
        name=name,
        operators=len(model.operators),
        macs=total_macs(model),
        constant_bytes=constant_bytes,
        constants="\n".join(_array(key, values) for key, values in emitter.constants.items()),
        pointers="\n".join(pointers),
        statements="\n".join(statements),
        **ports,
    )


def _step_lines(operator: Operator, statements: Sequence[str]) -> list[str]:
    comment = re.sub(r"\*/|/\*|[^ -~]", "_", operator.place)
    if not statements:
        return [f"  /* {comment}: no code */"]
    return [f"  {{ /* {comment} */", *(textwrap.indent(s, "    ") for s in statements), "  }"]


def _address(name: str, offset: int) -> str:
    return f"({name}_arena.bytes + {offset})"


def _array(name: str, values: np.ndarray) -> str:
    """`static const` array, wrapped."""
    suffix = {"int64": "LL", "uint64": "ULL", "uint32": "U"}.get(values.dtype.name, "")
    integers = values.astype(np.uint8) if values.dtype == bool else values
    numbers = [f"{value}{suffix}" for value in integers.ravel().tolist()] or ["0"]
    per_line = LINE // (max(map(len, numbers)) + 2)
    lines = [", ".join(numbers[i : i + per_line]) for i in range(0, len(numbers), per_line)]
    head = f"static const {C_TYPES[values.dtype.name]} {name}[{len(numbers)}] MODEL_ALIGNED = {{"
    return "\n".join([head, *(f"  {line}," for line in lines), "};"])


def _port(tensor: Tensor) -> dict[str, Any]:
    quantized = tensor.scale.size == 1
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "bytes": tensor.bytes,
        "scale": float(tensor.scale[0]) if quantized else None,
        "zero_point": zero_point_of(tensor) if quantized else None,
    }


def _macros(guard: str, direction: str, index: int, tensor: Tensor) -> str:
    stem = f"{guard}_{direction}_{index}"
    shape = " x ".join(str(size) for size in tensor.shape)
    comment = re.sub(r"\*/|/\*|[^ -~]", "_", tensor.name)
    lines = [f"/* {direction.lower()} {index}: {comment}, {tensor.dtype}, {shape} */"]
    lines.append(f"#define {stem}_BYTES {tensor.bytes}")
    if tensor.scale.size == 1:
        lines.append(f"#define {stem}_SCALE {float(tensor.scale[0])!r}f")
        lines.append(f"#define {stem}_ZERO_POINT ({zero_point_of(tensor)})")
    return "\n".join([*lines, ""])


def _main(generated: Generated) -> str:
    guard = generated.name.upper()
    fill = [
        f"  memset({generated.name}_input({i}), 0, {guard}_INPUT_{i}_BYTES);"
        for i in range(len(generated.model.inputs))
    ]
    return _template(
        "main.c",
        title=_title(generated),
        name=generated.name,
        guard=guard,
        fill="\n".join(fill),
        output_type=C_TYPES[generated.model.outputs[0].dtype],
    )


def _title(generated: Generated) -> str:
    return f"{generated.name}, {len(generated.model.operators)} operators"


def _template(file: str, **values: Any) -> str:
    return Template((TEMPLATES / file).read_text(encoding="utf-8")).substitute(values)
