"""Tables on the terminal. Needs nothing beyond the core install."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from compressor.policy import Choice
from compressor.report import words
from profiles.results import Record, Results

PIPE_COLUMNS = 120
STATUS_STYLES = {
    "verified": "green",
    "built": "cyan",
    "deferred": "cyan",
    "rejected": "yellow",
    "failed": "red",
    "unsupported": "dim",
}


def _table(**options: Any) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0), **options)


def _plain(text: str) -> str:
    """Without no-break spaces: people paste from terminals."""
    return text.replace(words.NBSP, " ")


def _number(text: str) -> Text:
    text = _plain(text)
    return Text("-", style="dim") if text == words.NOT_MEASURED else Text(text)


def _latency(record: Record) -> Text:
    if record.latency_ms is None:
        return _number(words.NOT_MEASURED)
    return Text(words.milliseconds(record.latency_ms.p50))


def _interval_ms(record: Record) -> Text:
    if record.latency_ms is None:
        return _number(words.NOT_MEASURED)
    low, high = record.latency_ms.ci95
    return Text(f"{words.milliseconds(low)}..{words.milliseconds(high)}")


def _metric(record: Record) -> Text:
    metric = record.task_metric
    if metric is None:
        return _number(words.NOT_MEASURED)
    low, high = metric.ci95
    return Text(f"{words.score(metric.value)} [{words.score(low)}, {words.score(high)}]")


def _versus_float(record: Record) -> Text:
    metric = record.task_metric
    if metric is None or metric.float_value is None:
        return _number(words.NOT_MEASURED)
    change = metric.value - metric.float_value
    worse = change < 0 if metric.higher_is_better else change > 0
    return Text(words.difference(change), style="yellow" if worse else "")


def _whole_students(records: Sequence[Record]) -> list[Record]:
    """The rows of whole students; those of single graphs only where a student has no row of its own."""
    whole = {(record.student, record.device) for record in records if record.graph == "*"}
    return [r for r in records if r.graph == "*" or (r.student, r.device) not in whole]


def _group_title(student: str, device: str, records: Sequence[Record]) -> Text:
    """Student, device, and once for the group what all its rows share: the metric's name and the teacher's value."""
    title = Text.assemble((student, "bold"), " on ", (device, "bold"))
    metric = next((record.task_metric for record in records if record.task_metric), None)
    if metric:
        title.append(f"; {metric.name} on {metric.n} {metric.split} items")
        if metric.float_value is not None:
            title.append(f", float {words.score(metric.float_value)}")
        if metric.teacher_value is not None:
            title.append(f", teacher {words.score(metric.teacher_value)}")
    emulators = {r.ran_on.name: None for r in records if r.ran_on is not None and r.ran_on.kind == "emulator"}
    if emulators:
        title.append(f"; emulated by {', '.join(emulators)}")
    if device != "host" and any(r.ran_on is not None and r.ran_on.kind == "host" for r in records):
        title.append("; run on this host, not on the device")
    return title


def _console(console: Console | None) -> Console:
    """The given one, or standard output; a pipe has no width, and gets enough for the widest table."""
    if console is None:
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = PIPE_COLUMNS
    return console


def print_table(results: Results, console: Console | None = None, choices: Sequence[Choice] = ()) -> None:
    """One table per student and device: what each artifact costs and what it still knows; below it, every reason, and
    which precision the policy keeps (`choices`).

    Fits 100 columns. Columns that nothing was measured for are left out; on narrow terminals some others, too.
    """
    console = _console(console)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in _whole_students(results.records):
        groups.setdefault((record.student, record.device), []).append(record)
    if not groups:
        console.print("no results")
    for (student, device), records in groups.items():
        console.print(_group_title(student, device, records))
        console.print(_artifact_table(records, _worst_parity_db(results.records), console))
        for record in records:
            if record.reason:
                status = Text(record.status, style=STATUS_STYLES[record.status])
                console.print(Text.assemble(_artifact(record), " ", status, ": ", record.reason))
        for choice in choices:
            if (choice.student, choice.device) == (student, device) and len(records) > 1:
                console.print(Text(choice.sentence()))
        console.print()


def _artifact(record: Record) -> str:
    """Runtime and precision: the one asked for and, where it differs, the one that came out."""
    got = record.precision
    arrow = f"→{got}" if got and got != record.precision_requested else ""
    graph = "" if record.graph == "*" else f" {record.graph}"
    return f"{record.runtime} {record.precision_requested}{arrow}{graph}"


def _count(value: Callable[[Record], float | None]) -> Callable[[Record], Text]:
    return lambda record: _number(words.count(value(record)))


def _size(value: Callable[[Record], float | None]) -> Callable[[Record], Text]:
    return lambda record: _number(words.size(value(record)))


def _cost(kind: str, source: str) -> Callable[[Record], Text]:
    def value(record: Record) -> float | None:
        cost = record.cost
        return cost.value if cost is not None and (cost.kind, cost.source) == (kind, source) else None

    return _count(value)


def _any_cost(record: Record) -> Text:
    """With its kind, for a table of several kinds."""
    if record.cost is None:
        return _number(words.NOT_MEASURED)
    return Text(f"{_plain(words.count(record.cost.value))} {words.cost_kind(record.cost)}".replace(" (", "\n("))


def _memory(name: str) -> Callable[[Record], Text]:
    return _size(lambda record: getattr(record.memory_bytes, name) if record.memory_bytes else None)


def _arena(record: Record) -> Text:
    """Where RAM is known, it has the arena in it."""
    memory = record.memory_bytes
    return _number(words.size(memory.arena if memory is not None and memory.ram is None else None))


def _artifact_key(record: Record) -> tuple[str, ...]:
    return (record.student, record.device, record.runtime, record.precision_requested)


def _worst_parity_db(records: Sequence[Record]) -> dict[tuple[str, ...], float]:
    """By artifact: signal to noise on the golden inputs, of the graph where it is lowest."""
    found: dict[tuple[str, ...], float] = {}
    for record in records:
        if record.parity is not None and record.parity.sqnr_db is not None:
            key = _artifact_key(record)
            found[key] = min(found.get(key, math.inf), record.parity.sqnr_db)
    return found


def _files(record: Record) -> Text:
    """What is stored on the device. Generated C is stored as flash, not as the text that it is compiled from."""
    return _number(words.size(None if record.runtime == "c" else record.artifact_bytes))


Column = tuple[str, Callable[[Record], Text]]
COLUMNS: tuple[Column, ...] = (
    ("bytes", _files),
    ("MACs", _count(lambda record: record.macs)),
    ("p50 ms", _latency),
    ("mean 95 % ms", _interval_ms),
    ("instructions", _cost("instructions", "counted")),
    ("instructions\n(estimated)", _cost("instructions", "estimated")),
    ("NPU cycles", _cost("npu_cycles", "counted")),
    ("NPU cycles\n(estimated)", _cost("npu_cycles", "estimated")),
    ("flash", _memory("flash")),
    ("RAM", _memory("ram")),
    ("arena", _arena),
    ("stack", _memory("stack")),
    ("metric [95 %]", _metric),
    ("vs float", _versus_float),
)
COSTS = ("instructions", "instructions\n(estimated)", "NPU cycles", "NPU cycles\n(estimated)")
ALWAYS = ("MACs", "metric [95 %]", "vs float")  # every other column is there if it has a number
FIRST_TO_GO = (
    "mean 95 % ms",
    "MACs",
    "arena",
    "bytes",
    "vs float",
    "parity",
    "stack",
    "RAM",
)  # where the terminal is narrow


def _artifact_table(records: Sequence[Record], parity_db: Mapping[tuple[str, ...], float], console: Console) -> Table:
    """As many columns as fit. `parity_db` is by `_artifact_key`."""

    def parity(record: Record) -> Text:
        value = parity_db.get(_artifact_key(record))
        return _number(words.NOT_MEASURED if value is None else f"{value:.1f} dB")

    nothing = str(_number(words.NOT_MEASURED))
    metric = next(i for i, (name, _) in enumerate(COLUMNS) if name == "metric [95 %]")
    columns = [
        (name, cell)
        for name, cell in (*COLUMNS[:metric], ("parity", parity), *COLUMNS[metric:])
        if name in ALWAYS or any(str(cell(record)) != nothing for record in records)
    ]
    columns = _one_cost_column(columns)
    for name in (None, *FIRST_TO_GO):
        columns = [column for column in columns if column[0] != name]
        table = _filled(records, columns)
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
            break
    return table


def _one_cost_column(columns: Sequence[Column]) -> list[Column]:
    """Of a core and its NPU each has a cost of its own kind: together they take the place of one column."""
    places = [place for place, (name, _) in enumerate(columns) if name in COSTS]
    if len(places) < 2:
        return list(columns)
    others = [column for column in columns if column[0] not in COSTS]
    return [*others[: places[0]], ("cost", _any_cost), *others[places[0] :]]


def _filled(records: Sequence[Record], columns: Sequence[Column]) -> Table:
    table = _table()
    table.add_column("artifact", overflow="fold")
    table.add_column("status", no_wrap=True)
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        cells = [cell(record) for _, cell in columns]
        table.add_row(Text(_artifact(record)), Text(record.status, style=STATUS_STYLES[record.status]), *cells)
    return table


def print_rows(rows: Sequence[Mapping[str, Any]], empty: str = "nothing", console: Console | None = None) -> None:
    """Rows of named values, one column per name in order of first appearance; `empty` is said when there are none."""
    console = _console(console)
    if not rows:
        console.print(Text(empty))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)}
    table = _table()
    for name in names:
        table.add_column(Text(name), justify="right" if name in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    console.print(table)


def print_verification(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Per graph: status, parity and what an emulator counted; below, where it ran and why what failed did."""
    console = _console(console)
    columns: dict[str, Callable[[Any], str]] = {
        "max_abs": words.significant, "cosine_min": "{:.6f}".format, "sqnr_db": "{:.1f}".format, "n": str,
        "instructions": words.count, "npu_cycles": words.count, "flash_bytes": words.size, "ram_bytes": words.size,
        "stack_bytes": words.size,
    }  # fmt: skip
    present = [name for name in columns if any(row.get(name) is not None for row in rows)]
    table = _table()
    for name in ("graph", "status"):
        table.add_column(name, overflow="fold")
    for name in present:
        table.add_column(name.removesuffix("_bytes").replace("_", " "), justify="right", no_wrap=True)
    for row in rows:
        numbers = [words.NOT_MEASURED if row.get(name) is None else columns[name](row[name]) for name in present]
        status = Text(row["status"], style=STATUS_STYLES[row["status"]])
        table.add_row(Text(row["graph"]), status, *(_number(number) for number in numbers))
    console.print(table)
    for place in dict.fromkeys(row["ran_on"] for row in rows if row["ran_on"]):
        console.print(Text(f"ran on: {place}"))
    for row in rows:
        if row.get("this_machine"):
            console.print(Text.assemble(row["graph"], ": ", row["this_machine"]["note"]))
        if row["reason"]:
            console.print(Text.assemble(row["graph"], " ", row["status"], ": ", row["reason"]))


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(_plain(words.significant(value, 4)))
    if isinstance(value, list | tuple):
        return Text(", ".join(str(item) for item in value))
    return Text(str(value))


def print_costs(costs: Mapping[str, Any], console: Console | None = None) -> None:
    """Per graph: its layers with MACs, parameters and activation bytes, the sums, and what was not counted.

    `costs` maps a graph's name to a `profiles.flops.Costs`.
    """
    console = _console(console)
    for name, graph_costs in costs.items():
        console.print(Text(name, style="bold"))
        table = _table(show_footer=True)
        table.add_column("layer", "all", overflow="fold", ratio=1)
        table.add_column("operator", no_wrap=True)
        table.add_column("output", no_wrap=True)
        totals = (graph_costs.macs, graph_costs.parameters)
        for title, total in zip(("MACs", "parameters"), totals, strict=True):
            table.add_column(title, _plain(words.count(total)), justify="right", no_wrap=True)
        activations = _plain(words.size(graph_costs.activation_bytes))
        table.add_column("activations", activations, justify="right", no_wrap=True)
        for layer in graph_costs.layers:
            table.add_row(
                Text(layer.name), layer.op, words.shape(layer.output_shape), _number(words.count(layer.macs)),
                _number(words.count(layer.parameters)), _number(words.size(layer.activation_bytes)),
            )  # fmt: skip
        console.print(table)
        uncounted = ", ".join(f"{op} x {times}" for op, times in graph_costs.uncounted.items())
        console.print(Text(f"not counted: {uncounted}" if uncounted else "every operator was counted"))
