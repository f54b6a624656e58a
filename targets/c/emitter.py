"""What lowerings write to: constants, kernels, calls and who uses which memory when; see `lowering.Emitter`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from targets.c.planner import Buffer, Plan, plan
from targets.tflite.schema import Model, Operator, Tensor

KERNELS = Path(__file__).parent / "kernels"
LOCAL_INCLUDE = re.compile(r'^#include "(\w+)\.h"\n', re.MULTILINE)
C_TYPES = {
    "bool": "uint8_t", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
}  # fmt: skip
ALIGNMENT = 4  # of int8 tensors, so that kernels can load words
SCRATCH_ALIGNMENT = 8


@dataclass
class Step:
    """The C of one operator."""

    operator: Operator
    statements: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Memory:
    """The arena: `pointers` are (C name, C type, offset) of what the statements refer to."""

    plan: Plan
    pointers: tuple[tuple[str, str, int], ...]
    offset_of: dict[int, int]  # tensor index -> offset


class CEmitter:
    """Collects the C of one model, operator by operator; `memory` then plans the arena.

    Args:
        model: the file. prefix: of every C name at file scope, so that several models can share a file.
    """

    def __init__(self, model: Model, prefix: str) -> None:
        self.model, self.prefix = model, prefix
        self.steps: list[Step] = []
        self.kernels: list[str] = []
        self.constants: dict[str, np.ndarray] = {}
        self._constant_names: dict[tuple[str, bytes], str] = {}
        self._referenced: dict[int, Tensor] = {}
        self._scratch: list[tuple[str, int, int]] = []  # name, bytes, operator
        self._aliases: list[tuple[int, int]] = []
        self._in_place: list[tuple[int, int, int]] = []  # operator, output, input
        self._constant_aliases: dict[int, Tensor] = {}

    def start(self, operator: Operator) -> None:
        """The next operator: what is written from here on belongs to it."""
        self.steps.append(Step(operator))

    # What lowerings call; promised in `lowering.Emitter`.

    def ref(self, tensor: Tensor) -> str:
        source = self._constant_aliases.get(tensor.index, tensor)
        if source.data is not None:
            return self.constant(f"t{source.index}", source.data)
        self._referenced[tensor.index] = tensor
        return f"t{tensor.index}"

    def constant(self, name: str, values: np.ndarray) -> str:
        values = np.ascontiguousarray(values)
        key = (values.dtype.name, values.tobytes())
        if key not in self._constant_names:
            unique = f"{self.prefix}_{name}"
            if unique in self.constants:
                unique = f"{unique}_{len(self.constants)}"
            self._constant_names[key] = unique
            self.constants[unique] = values
        return self._constant_names[key]

    def kernel(self, *names: str) -> None:
        for name in names:
            self.kernels.extend(found for found in kernel_order([name]) if found not in self.kernels)

    def scratch(self, size: int) -> str:
        name = f"scratch{len(self._scratch)}"
        self._scratch.append((name, size, len(self.steps) - 1))
        return name

    def alias(self, output: Tensor, input: Tensor) -> None:
        source = self._constant_aliases.get(input.index, input)
        if source.data is not None:
            self._constant_aliases[output.index] = source
        else:
            self._aliases.append((output.index, input.index))

    def in_place(self, output: Tensor, input: Tensor) -> None:
        if not input.is_constant and input.index not in self._constant_aliases:
            self._in_place.append((len(self.steps) - 1, output.index, input.index))

    def call(self, statement: str) -> None:
        self.steps[-1].statements.append(statement)

    # Afterwards.

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether the tensor is in flash: a constant, or another shape of one."""
        return self._constant_aliases.get(tensor.index, tensor).is_constant

    def memory(self) -> Memory:
        """Plan the arena with outputs written over inputs where that is allowed, or without if that is smaller."""
        memory = self._plan(self._in_place)
        if memory.plan.arena_bytes == memory.plan.lower_bound:
            return memory
        return min(memory, self._plan([]), key=lambda memory: memory.plan.arena_bytes)

    def _plan(self, in_place: Sequence[tuple[int, int, int]]) -> Memory:
        lives = self._lives()
        home = {index: index for index in lives}  # tensor -> the tensor whose buffer it shares
        for output, source in self._aliases:
            _share(lives, home, output, source)
        taken: set[tuple[int, int]] = set()
        for step, output, source in in_place:
            pair = {(step, home[output]), (step, home[source])}
            # Nobody reads the input after this operator, and neither its place nor the output's is given away already.
            if lives[home[source]][2] == step and not pair & taken:
                _share(lives, home, output, source)
                taken |= pair
        homes = sorted(set(home.values()))
        buffers = [Buffer(*lives[i]) for i in homes]
        buffers += [Buffer(size, step, step, SCRATCH_ALIGNMENT) for _, size, step in self._scratch]
        found = plan(buffers)
        offsets = dict(zip(homes, found.offsets, strict=False))
        offset_of = {index: offsets[place] for index, place in home.items()}
        pointers = [(f"t{i}", C_TYPES[t.dtype], offset_of[i]) for i, t in sorted(self._referenced.items())]
        pointers += [
            (name, "int8_t", offset)
            for (name, *_), offset in zip(self._scratch, found.offsets[len(homes) :], strict=True)
        ]
        return Memory(found, tuple(pointers), offset_of)

    def _lives(self) -> dict[int, tuple[int, int, int, int]]:
        """Tensor -> (bytes, operator that writes it, last operator that reads it, alignment), constants left out.

        Inputs of the graph are written before the first operator (-1), outputs are read after the last.
        """
        count = len(self.steps)
        uses: list[tuple[int, tuple[Tensor | None, ...]]] = [(-1, self.model.inputs), (count, self.model.outputs)]
        uses += [(i, step.operator.inputs + step.operator.outputs) for i, step in enumerate(self.steps)]
        lives: dict[int, tuple[int, int, int, int]] = {}
        for time, tensors in uses:
            for tensor in tensors:
                if tensor is None or (self.is_constant(tensor) and time < count):
                    continue
                alignment = max(ALIGNMENT, np.dtype(tensor.dtype).itemsize)
                size, first, last, _ = lives.get(tensor.index, (tensor.bytes, time, time, 0))
                lives[tensor.index] = (size, min(first, time), max(last, time), alignment)
        return lives


def _share(lives: dict[int, tuple[int, int, int, int]], home: dict[int, int], output: int, source: int) -> None:
    """Let two tensors, and all that share with them, live in one buffer."""
    kept, gone = home[source], home[output]
    if kept == gone:
        return
    a, b = lives[kept], lives[gone]
    lives[kept] = (max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    for index, place in home.items():
        if place == gone:
            home[index] = kept


def kernel_order(names: Iterable[str]) -> list[str]:
    """Kernel headers in the order in which they can be put into one file: what is included comes first."""
    ordered: list[str] = []
    for name in names:
        included = LOCAL_INCLUDE.findall((KERNELS / f"{name}.h").read_text(encoding="utf-8"))
        ordered.extend(found for found in [*kernel_order(included), name] if found not in ordered)
    return ordered


def kernel_text(name: str) -> str:
    """A kernel header without its includes of other kernel headers."""
    return LOCAL_INCLUDE.sub("", (KERNELS / f"{name}.h").read_text(encoding="utf-8"))
