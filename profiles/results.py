"""The records of results.json (schema 1): what was compiled for what, what it costs there, what it still knows.

The field names are a contract with other programs. A number that was not measured is None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles.errors import RequestError
from profiles.storage import read_json, write_json

SCHEMA = 1

Status = Literal["verified", "built", "deferred", "rejected", "failed", "unsupported"]
STATUSES: tuple[str, ...] = ("verified", "built", "deferred", "rejected", "failed", "unsupported")  # best first
Precision = Literal["fp32", "fp16", "int8"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RanOn(_Strict):
    kind: Literal["device", "host", "emulator"]
    name: str


class Latency(_Strict):
    """Milliseconds per call; ci95 is the interval of the mean."""

    p50: float
    p90: float
    p99: float
    mean: float
    ci95: tuple[float, float]
    n: int
    threads: int
    warmup: int


class Cost(_Strict):
    kind: Literal["instructions", "npu_cycles"]
    value: float
    source: Literal["counted", "estimated"]


class Memory(_Strict):
    """Bytes. `peak`: resident memory of a fresh process that loads and runs the artifact, interpreter included."""

    peak: int | None = None
    arena: int | None = None
    flash: int | None = None
    ram: int | None = None
    stack: int | None = None


class Parity(_Strict):
    max_abs: float | None
    cosine_min: float | None
    sqnr_db: float | None
    agreement: float | None = Field(description="share of samples whose argmax (or nearest answer) is the same")
    n: int
    inputs: Literal["real", "synthetic"]


class TaskMetric(_Strict):
    name: str
    value: float
    ci95: tuple[float, float]
    n: int
    split: str
    float_value: float | None
    teacher_value: float | None
    higher_is_better: bool


class BudgetState(_Strict):
    limit: float
    value: float | None
    state: Literal["passed", "missed", "unknown"]


class Record(_Strict):
    student: str
    graph: str  # "*": the whole student, per query
    device: str
    runtime: str
    runtime_version: str | None = None
    precision_requested: str
    precision: str | None = None
    status: Status
    reason: str | None = None
    ran_on: RanOn | None = None
    artifact_path: str | None = None
    artifact_bytes: int | None = None
    artifact_sha256: str | None = None
    batch: int | None = None
    input_shapes: dict[str, list[int]] | None = None
    macs: float | None = None
    flops: float | None = None
    parameters: int | None = None
    uncounted_ops: dict[str, int] | None = None
    latency_ms: Latency | None = None
    cost: Cost | None = None
    memory_bytes: Memory | None = None
    parity: Parity | None = None
    task_metric: TaskMetric | None = None
    budget: dict[str, BudgetState] | None = None


class Run(_Strict):
    command: str
    commit: str | None
    date: str
    host: dict[str, Any]
    versions: dict[str, str]


class Results(_Strict):
    schema_: int = Field(SCHEMA, alias="schema")
    run: Run
    records: list[Record]
    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: str | Path) -> None:
        """Write results.json, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a results.json. Raises RequestError, in one line, if it is missing, broken or of another schema."""
        value = read_json(path)
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise RequestError(f"{path}: not a results.json of schema {SCHEMA} (schema: {schema!r})")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise RequestError(f"{path}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """The first thing that pydantic found, as "key: what is wrong", and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    message = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(first["type"], first["msg"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{more}"
