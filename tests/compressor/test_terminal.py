"""Tables on the terminal: complete, honest about what is missing, and no wider than promised."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from compressor.terminal import print_costs, print_rows, print_table, print_verification
from profiles.flops import Costs, Layer
from profiles.results import Cost, Memory, Parity, RanOn, Results
from tests.compressor.report_fixture import results


def printed(function, *arguments, width=100, **options) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    function(*arguments, console=console, **options)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def run() -> Results:
    return Results.model_validate(results()[0])


@pytest.mark.parametrize("width", [80, 100, 120])
def test_table_fits_and_cuts_no_number(run, width):
    text = printed(print_table, run, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    for name in ("openvino fp16", "unsupported", "371 kB", "0.241 [0.194, 0.289]", "−0.012"):
        assert name in text


def test_table_at_100_columns_leaves_out_the_interval_of_the_mean_at_most(run):
    columns = ("artifact", "status", "bytes", "MACs", "p50 ms", "parity", "metric [95 %]", "vs float")
    for width, names in ((100, columns), (120, (*columns, "mean 95 % ms"))):
        heading = next(line for line in printed(print_table, run, width=width).splitlines() if "artifact" in line)
        assert all(name in heading for name in names)


def test_every_reason_is_printed_and_nothing_unmeasured_has_a_number(run):
    text = printed(print_table, run, width=200)
    for record in run.records:
        if record.graph == "*" and record.reason:
            assert f"{record.runtime} {record.precision_requested} {record.status}: {record.reason}" in text
    failed = next(line for line in text.splitlines() if "failed" in line and ":" not in line)
    # nothing was timed on this device: its table has no latency; the graph that ran before it failed has its parity
    assert failed.split() == ["onnx", "fp16", "failed", "-", "2.34", "M", "61.7", "dB", "-", "-"]


def microcontroller(run: Results) -> Results:
    """Two artifacts of a device with an NPU: C that was emulated, and what vela made."""
    c = run.records[0].model_copy(
        update={
            "device": "ethos-u55", "runtime": "c", "precision_requested": "int8", "precision": "int8",
            "latency_ms": None, "macs": 115_744, "ran_on": RanOn(kind="emulator", name="QEMU mps3-an547"),
            "cost": Cost(kind="instructions", value=123_456, source="counted"),
            "memory_bytes": Memory(flash=31_234, ram=9_012, arena=8_200, stack=412),
            "parity": Parity(max_abs=0.1, cosine_min=0.999, sqnr_db=33.7, agreement=1.0, n=32, inputs="real"),
        }
    )  # fmt: skip
    npu = c.model_copy(
        update={
            "runtime": "ethos-u", "status": "built", "reason": "nothing here runs it", "ran_on": None,
            "cost": Cost(kind="npu_cycles", value=10_913, source="estimated"), "task_metric": None,
            "memory_bytes": Memory(flash=7_632, arena=2_864), "parity": None,
        }
    )  # fmt: skip
    return run.model_copy(update={"records": [c, npu]})


def test_a_microcontrollers_table_has_instructions_and_memory_and_no_latency(run):
    text = printed(print_table, microcontroller(run))
    assert all(len(line) <= 100 for line in text.splitlines()) and "…" not in text
    for name in ("123 k instructions", "flash", "RAM", "stack", "31.2 kB", "9.01 kB", "412 B", "10.9 k NPU cycles"):
        assert name in text
    assert "parity" in text and "33.7 dB" in text
    assert "emulated by QEMU mps3-an547" in " ".join(text.split()) and "(estimated)" in text
    assert "p50 ms" not in text and "mean 95 % ms" not in text


def test_a_narrow_terminal_leaves_columns_out_before_it_cuts(run):
    text = printed(print_table, microcontroller(run), width=80)
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    assert "instructions" in text and "flash" in text and "MACs" not in text


def test_markup_in_a_name_is_printed_as_it_is(run):
    changed = run.model_copy(update={"records": [run.records[0].model_copy(update={"student": "[red]x[/red]"})]})
    assert "[red]x[/red] on host" in printed(print_table, changed)


def test_precision_that_came_out_is_told_from_the_one_asked_for(run):
    changed = run.model_copy(update={"records": [run.records[0].model_copy(update={"precision": "fp16"})]})
    assert "onnx fp32→fp16" in printed(print_table, changed)


def test_no_records_is_said(run):
    assert printed(print_table, run.model_copy(update={"records": []})) == "no results\n"


def test_rows_print_one_column_per_name():
    text = printed(print_rows, [{"name": "[b]a", "n": 3, "ok": True}, {"name": "b", "x": 0.123456, "ok": False}])
    lines = [line.split() for line in text.splitlines() if line.strip() and "─" not in line]
    assert lines == [["name", "n", "ok", "x"], ["[b]a", "3", "yes", "-"], ["b", "-", "no", "0.1235"]]
    assert printed(print_rows, [], empty="no difference") == "no difference\n"


def test_a_verification_shows_parity_and_what_was_counted_and_where_it_ran():
    parity = {"max_abs": 0.2413, "cosine_min": 0.99954, "sqnr_db": 33.654, "n": 32}
    counted = {"instructions": 539_426, "flash_bytes": 13_143, "ram_bytes": 2_176, "stack_bytes": 252}
    emulated = {"graph": "imu", "status": "verified", "ran_on": "emulator qemu", **parity, **counted, "reason": None}
    failed = {"graph": "head", "status": "failed", "ran_on": None, "reason": "hard fault [in] f"}
    text = printed(print_verification, [emulated, failed])
    assert "ran on: emulator qemu" in text and "head failed: hard fault [in] f" in text
    row = next(line for line in text.splitlines() if "imu" in line).split()
    assert " ".join(row[2:]) == "0.241 0.999540 33.7 32 539 k 13.1 kB 2.18 kB 252 B"
    here = [{key: value for key, value in emulated.items() if key not in counted}]
    assert "instructions" not in printed(print_verification, here)


def test_costs_print_every_layer_the_sums_and_what_was_not_counted():
    layers = (
        Layer("conv", "Conv", 1_000_000, 500, 4096, (1, 8, 8, 16)),
        Layer("relu", "Relu", 0, 0, 4096, (1, 8, 8, 16)),
    )
    costs = Costs(
        macs=1_000_000, parameters=500, activation_bytes=8192, peak_activation_bytes=8192, layers=layers,
        uncounted={"Mystery": 2}, input_shapes={"x": (1, 3, 8, 8)},
    )  # fmt: skip
    text = printed(print_costs, {"encoder": costs, "decoder": costs})
    assert text.count("1.00 M") == 4 and text.count("not counted: Mystery x 2") == 2  # layer and sum, in two graphs
    assert "1×8×8×16" in text and "8.19 kB" in text
    whole = printed(print_costs, {"encoder": SimpleNamespace(**{**costs.__dict__, "uncounted": {}})})
    assert "every operator was counted" in whole
