"""Latency against callables whose time is known, and against simulated clocks."""

from __future__ import annotations

import gc
import os
import threading
import time

import numpy as np
import pytest

from profiles import latency as latency_module
from profiles.host import usable_cores
from profiles.latency import Conditions, compare, measure, pinned, summarize


def test_a_callable_that_sleeps_takes_as_long_as_it_sleeps():
    latency, samples_ms = measure(lambda: time.sleep(0.004), warmup=3, min_samples=20, max_seconds=0.6)
    assert latency.n == len(samples_ms)
    assert (samples_ms >= 4).all()  # time.sleep never sleeps too short
    assert 4 <= latency.p50 < 8
    assert latency.ci95[0] <= latency.mean <= latency.ci95[1]
    assert latency.p50 <= latency.p90 <= latency.p99
    assert latency.warmup >= 3


class _Clock:
    """A clock that only the measured callable moves: durations are known to the nanosecond."""

    def __init__(self, monkeypatch, durations_ms):
        self.now_ns, self.calls, self.durations_ms = 0, 0, durations_ms
        monkeypatch.setattr(latency_module.time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(latency_module.time, "perf_counter", lambda: self.now_ns / 1e9)

    def __call__(self):
        self.now_ns += round(self.durations_ms(self.calls) * 1e6)
        self.calls += 1


def test_percentiles_of_a_bimodal_callable_are_its_two_modes(monkeypatch):
    """Nineteen calls of 2 ms, then one of 9 ms: the mean is 2.35 ms."""
    clock = _Clock(monkeypatch, lambda call: 9.0 if call % 20 == 19 else 2.0)
    latency, samples_ms = measure(clock, min_samples=400, max_seconds=4.0)
    assert set(np.unique(samples_ms)) == {2.0, 9.0}
    assert (latency.p50, latency.p90, latency.p99) == (2.0, 2.0, 9.0)
    assert latency.mean == pytest.approx(2.35, abs=0.03)
    assert latency.ci95[0] < 2.35 < latency.ci95[1]


def test_warm_up_lasts_until_the_median_settles(monkeypatch):
    """The first 200 calls take from 10 down to 1 ms; none of them may be a sample."""
    clock = _Clock(monkeypatch, lambda call: max(1.0, 10 - call * 0.045))
    result = measure(clock, warmup=5, min_samples=50, max_seconds=20.0)
    assert result.conditions.settled
    assert result.latency.warmup >= 150
    assert result.latency.p99 == pytest.approx(1.0, rel=0.1)


def test_a_callable_that_never_settles_says_so(monkeypatch):
    clock = _Clock(monkeypatch, lambda call: 1.05**call)
    result = measure(clock, min_samples=5, max_seconds=2.0)
    assert not result.conditions.settled
    assert "still moving" in (result.conditions.note or "")


def test_sampling_stops_when_time_is_over_but_a_slow_callable_still_gives_three_samples(monkeypatch):
    assert measure(_Clock(monkeypatch, lambda call: 4000.0), min_samples=50, max_seconds=1.0).latency.n == 3
    # A noisy one never reaches 1 %: its time is used up, not more.
    rng = np.random.default_rng(0)
    result = measure(_Clock(monkeypatch, lambda call: float(rng.choice([1, 100]))), min_samples=10, max_seconds=3.0)
    assert result.conditions.seconds == pytest.approx(3.0, abs=0.2)


def test_a_steady_callable_is_done_after_the_fewest_samples(monkeypatch):
    assert measure(_Clock(monkeypatch, lambda call: 2.0), min_samples=50, max_seconds=100.0).latency.n == 50


def test_the_interval_of_correlated_samples_is_wider_than_that_of_shuffled_ones():
    """A clock that alternates between two speeds every 40 calls: neighbours say the same thing twice."""
    blocks = np.repeat(np.random.default_rng(0).choice([1.0, 1.5], 25), 40)
    rng = np.random.default_rng(1)
    correlated = blocks + rng.normal(0, 0.02, blocks.size)
    ordered = summarize(correlated, threads=1, warmup=0)
    shuffled = summarize(rng.permutation(correlated), threads=1, warmup=0)
    assert ordered.mean == pytest.approx(shuffled.mean)
    assert (ordered.ci95[1] - ordered.ci95[0]) > 3 * (shuffled.ci95[1] - shuffled.ci95[0])


def test_the_garbage_collector_rests_during_the_measurement_and_works_again_after_it():
    seen = []
    measure(lambda: seen.append(gc.isenabled()), min_samples=5, max_seconds=0.05)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        measure(_raise, min_samples=5)
    assert gc.isenabled()


def _raise():
    raise RuntimeError("the callable's own error")


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(usable_cores()) < 2, reason="needs two cores to pin to one"
)
def test_every_thread_is_pinned_during_the_measurement_and_gets_its_cores_back():
    stop, ready = threading.Event(), threading.Event()
    worker_id = []

    def work():
        worker_id.append(threading.get_native_id())
        ready.set()
        stop.wait()

    worker = threading.Thread(target=work)
    worker.start()
    ready.wait()
    before = os.sched_getaffinity(0)
    inside, born_inside = [], []
    try:
        with pinned(1) as cores:
            inside = [os.sched_getaffinity(0), os.sched_getaffinity(worker_id[0])]
            born = threading.Thread(target=lambda: born_inside.append(os.sched_getaffinity(0)))
            born.start()
            born.join()
        assert cores is not None and len(cores) == 1
        assert inside == [set(cores), set(cores)]
        assert born_inside == [set(cores)]
        assert os.sched_getaffinity(0) == before
        assert os.sched_getaffinity(worker_id[0]) == before
    finally:
        stop.set()
        worker.join()
    with pytest.raises(RuntimeError), pinned(1):
        _raise()
    assert os.sched_getaffinity(0) == before


def test_as_many_threads_as_cores_leave_nothing_to_pin():
    with pinned(len(usable_cores())) as cores:
        assert cores is None


def _spin(milliseconds):
    end = time.process_time() + milliseconds / 1e3
    while time.process_time() < end:
        pass


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs the machine's clocks")
def test_a_busy_machine_is_part_of_the_answer():
    """A child process that spins is load of others; the process's own work is not."""
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        result = measure(lambda: _spin(2), min_samples=300, max_seconds=1.0)
    finally:
        child.kill()
        child.wait()
    other = result.conditions.other_load_cores
    assert other is not None and other > 0.4
    assert "other processes kept" in (result.conditions.note or "")
    assert result.conditions.to_json()["other_load_cores"] == other


def test_a_quiet_measurement_has_no_note():
    quiet = Conditions(
        cores=[0], settled=True, seconds=1, timer_overhead_ms=1e-4, load_average=0.1, other_load_cores=0.05,
        involuntary_switches=0, mhz_before=3000, mhz_after=2990,
    )  # fmt: skip
    assert quiet.note is None
    throttled = Conditions(**{**quiet.to_json(), "mhz_after": 1500})
    assert "clock went from 3000 to 1500 MHz" in (throttled.note or "")


def test_the_ratio_of_two_callables_is_known_from_their_durations(monkeypatch):
    clock = _Clock(monkeypatch, lambda call: 0.0)
    rng = np.random.default_rng(0)

    def take(mean_ms):
        # Both see the same drift: the machine becomes three times slower on the way.
        clock.now_ns += round(mean_ms * (1 + 2 * clock.calls / 400) * rng.lognormal(0, 0.05) * 1e6)
        clock.calls += 1

    ratio = compare(lambda: take(6.0), lambda: take(4.0), pairs=200)
    assert ratio.pairs == 200
    assert ratio.ratio == pytest.approx(1.5, rel=0.02)
    assert 1.45 < ratio.ci95[0] < 1.5 < ratio.ci95[1] < 1.55


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"min_samples": 0}, {"max_seconds": 0}, {"threads": 0}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        measure(lambda: None, **wrong)
    with pytest.raises(ValueError, match="two pairs"):
        compare(lambda: None, lambda: None, pairs=1)
