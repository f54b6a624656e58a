"""A student's whole query as one firmware, glue and all, where its task can write one.

A task's package may have, beside its glue.py, a module `firmware` with

    query_program(student, artifact, arrays, count, out) -> QueryProgram

that writes a program for `count` queries of a split's arrays into the folder `out`. `student` is the artifact's own, to
ask for the answers. It raises RequestError, saying why, for a student that it cannot write as a program.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from targets.firmware.build import Firmware
from targets.firmware.counter import profile
from targets.glue import resolve_glue

if TYPE_CHECKING:
    from targets.artifact import Artifact
    from targets.student import Student

QUERIES = 32  # that are counted, evenly spread over a split
# Of the answers, that must be the glue's. Not all: int8 codes of the gallery turn what is nearly equal.
AGREEMENT = 0.9


@dataclass(frozen=True)
class QueryProgram:
    """`folder`: model.c and model.json, for targets.firmware.build. `requests`: the bytes of each query.
    `agrees(i, reply)`: whether the program's answer to request i is the student's. `warm_up`: so many requests at the
    beginning only bring a program with a memory into its usual state; they are not queries."""

    folder: Path
    requests: list[bytes]
    agrees: Callable[[int, bytes], bool]
    warm_up: int = 0


class Writer(Protocol):
    """A task's `query_program`."""

    def __call__(
        self, student: Student, artifact: Artifact, arrays: Mapping[str, np.ndarray], count: int, out: Path
    ) -> QueryProgram: ...


@dataclass(frozen=True)
class WholeQuery:
    """What one query of the whole program takes, the mean over `queries`. `agreed`: answers that are the student's."""

    instructions: float | None
    memory: dict[str, int]
    queries: int
    agreed: int
    note: str | None

    @property
    def agrees(self) -> bool:
        """Whether it is the student's query that was counted."""
        return self.agreed >= AGREEMENT * self.queries

    def to_json(self) -> dict[str, Any]:
        cost = {"kind": "instructions", "value": self.instructions, "source": "counted"} if self.instructions else None
        return {"cost": cost, "memory": self.memory, "queries": self.queries, "agreed": self.agreed}


def program_writer(glue: str) -> Writer | None:
    """The task's `query_program`; None where the task has none."""
    package = resolve_glue(glue).__module__.rpartition(".")[0]
    name = f"{package}.firmware"
    if package == "targets" or importlib.util.find_spec(name) is None:  # the generic glue has no package of its own
        return None
    return getattr(importlib.import_module(name), "query_program", None)


def whole_query(program: QueryProgram, firmware: Firmware, arena_bytes: int, timeout_s: float) -> WholeQuery:
    """Run the program's queries and count. `firmware`: the program, built. `arena_bytes`: of its graphs together.

    Raises FirmwareError as `targets.firmware.Emulator` does.
    """
    found = profile(firmware, program.requests, timeout_s)
    memory = {
        "arena": arena_bytes,
        "flash": firmware.flash_bytes,
        "ram": firmware.ram_bytes,
        "stack": found.stack_bytes,
    }
    queries = range(program.warm_up, len(program.requests))
    agreed = sum(program.agrees(index, found.outputs[index]) for index in queries)
    instructions = fmean(found.instructions[program.warm_up :]) if found.instructions else None
    return WholeQuery(instructions, memory, len(queries), agreed, found.note)
