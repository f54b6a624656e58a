"""The precision policy, on records made for the purpose."""

from __future__ import annotations

from typing import Any

from compressor.policy import choose
from profiles.results import Cost, Latency, RanOn, Record

HERE = RanOn(kind="host", name="here")


def record(precision: str, status: str = "verified", ms: tuple[float, float] | None = None, **more: Any) -> Record:
    """`ms`: the mean and half the width of its interval."""
    latency = None
    if ms is not None:
        mean, half = ms
        latency = Latency(
            p50=mean, p90=mean, p99=mean, mean=mean, ci95=(mean - half, mean + half), n=50, threads=1, warmup=5
        )
    return Record(
        student="s", graph="*", device="d", runtime="r", precision_requested=precision, status=status,  # type: ignore[arg-type]
        latency_ms=latency, **{"ran_on": None if status in ("built", "deferred") else HERE, **more},
    )  # fmt: skip


def test_the_fastest_that_passes_is_kept_and_the_others_say_why_not() -> None:
    (choice,) = choose([record("int8", ms=(1.0, 0.1)), record("fp32", ms=(3.0, 0.1)), record("fp16", ms=(2.0, 0.1))])
    assert choice.kept == "int8" and choice.because == "it is faster than fp16 (mean 1 ms against 2 ms)"
    assert set(choice.dropped) == {"fp32", "fp16"}
    assert "fp16 is faster than fp32" in choice.dropped["fp32"]


def test_int8_that_is_slower_is_dropped_and_said_so() -> None:
    (choice,) = choose([record("fp32", ms=(1.0, 0.1)), record("int8", ms=(1.5, 0.1))])
    assert choice.kept == "fp32"
    assert choice.dropped == {"int8": "it is slower than fp32 (mean 1.5 ms against 1 ms)"}
    assert "int8 is not, it is slower" in choice.sentence()


def test_what_cannot_be_told_apart_in_time_is_decided_by_size() -> None:
    rows = [record("fp32", ms=(1.0, 0.2), artifact_bytes=400), record("int8", ms=(1.1, 0.2), artifact_bytes=100)]
    (choice,) = choose(rows)
    assert choice.kept == "int8" and "intervals overlap" in choice.because and "100 bytes against 400" in choice.because


def test_a_rejected_precision_is_never_kept_however_fast() -> None:
    (choice,) = choose([record("fp32", ms=(9.0, 0.1)), record("int8", "rejected", ms=(1.0, 0.1), reason="12 dB")])
    assert choice.kept == "fp32" and choice.because == "the only precision that passes"
    assert choice.dropped["int8"] == "rejected, 12 dB"


def test_instructions_decide_where_an_emulator_ran() -> None:
    def cost(value: float) -> Cost:
        return Cost(kind="instructions", value=value, source="counted")

    (choice,) = choose([record("fp32", cost=cost(5e6)), record("int8", cost=cost(2e6))])
    assert choice.kept == "int8" and "2e+06 against 5e+06 instructions" in choice.because


def test_a_runtime_with_one_precision_and_one_without_any() -> None:
    only, none = choose([record("int8"), record("int8", "failed", reason="died").model_copy(update={"runtime": "x"})])
    assert only.kept == "int8" and only.because == "the only precision there is" and not only.dropped
    assert none.kept is None and none.sentence() == "x: nothing passes; int8 is not, failed, died"


def test_where_nothing_can_run_the_lowest_precision_is_kept_and_its_speed_is_left_open() -> None:
    (choice,) = choose([record("fp32", "built", artifact_bytes=100), record("int8", "built", artifact_bytes=300)])
    assert choice.kept == "int8" and "must be measured on the device" in choice.because


def test_what_ran_without_a_clock_is_decided_by_size_in_one_sentence() -> None:
    (choice,) = choose([record("fp32", artifact_bytes=300), record("int8", artifact_bytes=100)])
    assert choice.sentence() == (
        "r: int8 is kept, it is smaller than fp32 (100 bytes against 300), and how fast it is was not measured here; "
        "fp32 is not, int8 is smaller than fp32 (100 bytes against 300), and how fast it is was not measured here"
    )
