"""Reading several results.json, with the details.json beside each, as one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from compressor.report.details import Details, load_details
from profiles.errors import RequestError
from profiles.results import Record, Results, Run


@dataclass(frozen=True)
class Source:
    """One results.json."""

    name: str
    run: Run
    records: int


@dataclass(frozen=True)
class Inputs:
    """Everything that a page is made of. `superseded`: records that a newer run of the same artifact replaced."""

    sources: list[Source]
    records: list[Record]
    superseded: list[Record]
    details: Details


def _identity(record: Record) -> tuple[str, ...]:
    return (record.student, record.graph, record.device, record.runtime, record.precision_requested)


def _when(run: Run) -> datetime:
    """The run's date; one that is not ISO 8601 sorts first."""
    try:
        date = datetime.fromisoformat(run.date)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def read_inputs(paths: Sequence[Path]) -> Inputs:
    """Read and merge. Of two records of one artifact the newer run's stands (of one date: the later file's).

    Raises RequestError if a file is missing, is not a results.json of this schema, or if there is no file at all.
    """
    if not paths:
        raise RequestError("report: no results.json given")
    loaded = [(path, Results.load(path)) for path in map(Path, paths)]
    kept: dict[tuple[str, ...], list[Record]] = {}
    superseded: list[Record] = []
    details = Details(schema=1)
    for path, results in sorted(loaded, key=lambda item: _when(item[1].run)):
        newer: dict[tuple[str, ...], list[Record]] = {}  # lists: an artifact may stand at several batch sizes
        for record in results.records:
            newer.setdefault(_identity(record), []).append(record)
        for identity in newer:
            superseded += kept.get(identity, [])
        kept |= newer
        details.merge(load_details(path.with_name("details.json")))
    in_given_order = dict.fromkeys(_identity(record) for _, results in loaded for record in results.records)
    records = [record for identity in in_given_order for record in kept[identity]]
    sources = [Source("/".join(path.parts[-2:]), results.run, len(results.records)) for path, results in loaded]
    return Inputs(sources, records, superseded, details)
