"""details.json (schema 1): what the page shows beyond results.json. Every part may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles.errors import RequestError
from profiles.results import Record
from profiles.storage import read_json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Layer(_Strict):
    name: str
    op: str
    macs: float | None = None
    parameters: int | None = None
    activation_bytes: int | None = None
    output_shape: list[int | str] | None = None


class Teacher(_Strict):
    name: str
    macs: float | None = None
    parameters: int | None = None
    bytes: int | None = None
    metric: str | None = None
    value: float | None = None
    ci95: tuple[float, float] | None = None


class Answer(_Strict):
    label: str
    correct: bool
    png: str | None = None  # base64 of a PNG or JPEG file; None: the answer is words


class Example(_Strict):
    """One query and what came back, best first."""

    title: str
    query_png: str | None = None
    query_wav: str | None = None  # base64 of a WAV file: 16-bit PCM, one channel
    query_text: str | None = None
    answers: list[Answer]
    truth: Answer | None = None  # the right one, when it is not among `answers`
    rank: int | None = None  # of the right one, from 1
    remark: str | None = None  # how the student did, in place of what the rank says


class Credit(_Strict):
    name: str
    version: str | None = None
    licence: str | None = None
    url: str | None = None
    note: str | None = None


class Precisions(_Strict):
    """Which precision the policy keeps of a student on one device and runtime (see compressor.policy.Choice)."""

    student: str
    device: str
    runtime: str
    kept: str | None
    because: str
    dropped: dict[str, str] = {}


class ChartPoint(_Strict):
    label: str
    x: float
    y: float
    ci95: tuple[float, float] | None = None
    group: str = ""
    detail: str = ""


class ScatterChart(_Strict):
    """See targets.glue.Scatter."""

    title: str
    text: str
    x: str
    y: str
    points: list[ChartPoint]
    lines: dict[str, list[tuple[float, float]]] = {}


class SharesChart(_Strict):
    """See targets.glue.Shares."""

    title: str
    text: str
    x: str
    bins: list[str]
    counts: list[int]
    parts: dict[str, list[float]]


class AgainstFloat(_Strict):
    """The metric of an artifact minus that of the float student, paired over the same items."""

    difference: float
    ci95: tuple[float, float]
    n: int


class Details(_Strict):
    schema_: Literal[1] = Field(1, alias="schema")
    layers: dict[str, dict[str, list[Layer]]] = {}
    latency_samples_ms: dict[str, list[float]] = {}
    teachers: dict[str, Teacher] = {}
    examples: dict[str, list[Example]] = {}
    examples_from: dict[str, str] = {}  # student -> the artifact that answered, in words
    credits: list[Credit] = []
    training: dict[str, list[dict[str, Any]]] = {}
    devices: dict[str, str] = {}  # device -> its profile's summary
    notes: dict[str, list[str]] = {}  # same keys as latency_samples_ms: what the runtime did that a reader should know
    extra_metrics: dict[str, dict[str, float]] = {}  # same keys; further metrics by name, e.g. acc@5
    timings: dict[str, dict[str, float]] = {}  # same keys; of a query that comes in over time, by name with unit
    against_float: dict[str, AgainstFloat] = {}  # same keys
    macs: dict[str, dict[str, float]] = {}  # student -> the parts of a query's MACs: graphs, and what the glue does
    charts: dict[str, list[ScatterChart | SharesChart]] = {}  # student -> what its task draws
    choices: list[Precisions] = []
    remarks: list[str] = []  # on the whole run, e.g. that weights are random
    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    def merge(self, other: Details) -> None:
        """Take over what `other` has; where both have a key, the other's value stands."""
        for name in Details.model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                mine.update(theirs)
            elif isinstance(mine, list):
                mine.extend(item for item in theirs if item not in mine)


def record_key(record: Record) -> str:
    """The key of an artifact in `latency_samples_ms` and `notes`; the precision is the one that was asked for."""
    return "|".join((record.student, record.graph, record.device, record.runtime, record.precision_requested))


def load_details(path: Path) -> Details:
    """Read a details.json; an empty Details if there is no such file. Raises RequestError if it is not as above."""
    if not path.exists():
        return Details(schema=1)
    try:
        return Details.model_validate(read_json(path))
    except ValidationError as error:
        raise RequestError(f"{path}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints in one line: where, and what."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}"
