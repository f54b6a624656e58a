"""How long a callable takes, and how sure we are.

Warm-up lasts until the running median settles; the process is pinned to as many cores as it has threads; the garbage
collector rests; the interval of the mean knows that neighbouring calls are correlated (batch means). What else the
machine did meanwhile is part of the answer.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from profiles.host import usable_cores
from profiles.statistics import mean_interval

if TYPE_CHECKING:
    from profiles.results import Latency

Fn = Callable[[], Any]
_FEWEST = 3  # samples, however slow the callable is
_SETTLED = 0.02  # relative change of the median from one warm-up window to the next
_WARMUP_SHARE = 0.3  # of max_seconds, at most
_PRECISE = 0.01  # relative half width of the interval at which sampling stops
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Conditions:
    """What surrounded a measurement. None: the system does not say."""

    cores: list[int] | None  # that the process was pinned to; None: not pinned
    settled: bool  # whether the median had stopped moving when the warm-up ended
    seconds: float  # of sampling
    timer_overhead_ms: float  # of reading the clock twice; not subtracted
    load_average: float | None  # 1 minute, before the measurement, all processes
    other_load_cores: float | None  # cores that other processes kept busy during the measurement
    involuntary_switches: int | None  # times that the scheduler took the processor away
    mhz_before: float | None
    mhz_after: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def note(self) -> str | None:
        """One line on what may have disturbed the measurement; None if nothing did."""
        parts = []
        if not self.settled:
            parts.append("the median was still moving when the warm-up ended")
        if self.other_load_cores is not None and self.other_load_cores > 0.2:
            parts.append(f"other processes kept {self.other_load_cores:.1f} cores busy")
        if self.mhz_before and self.mhz_after and abs(self.mhz_after / self.mhz_before - 1) > 0.1:
            parts.append(f"the clock went from {self.mhz_before:.0f} to {self.mhz_after:.0f} MHz")
        return "; ".join(parts) or None


@dataclass(frozen=True)
class Measurement:
    """`latency, samples_ms = measure(...)` works, too."""

    latency: Latency
    samples_ms: np.ndarray  # (n,) in the order of measurement
    conditions: Conditions

    def __iter__(self) -> Iterator[Any]:
        return iter((self.latency, self.samples_ms))


@dataclass(frozen=True)
class Ratio:
    """Time of a over time of b: the geometric mean over pairs of neighbouring calls, and its interval."""

    ratio: float
    ci95: tuple[float, float]
    pairs: int


def measure(
    fn: Fn,
    *,
    warmup: int = 5,
    min_samples: int = 50,
    max_seconds: float = 5.0,
    threads: int = 1,
) -> Measurement:
    """Time single calls of `fn`.

    warmup: calls before the first sample, at least. More follow until the running median settles, for at most 30 % of
    `max_seconds`.
    Sampling goes on until there are `min_samples` and the mean is known to 1 %, or until `max_seconds` have passed; a
    slow callable gives fewer samples than `min_samples`, but never fewer than 3.
    threads: that `fn` uses; the process is pinned to as many cores, if it has more than that.
    """
    if warmup < 0 or min_samples < 1 or max_seconds <= 0 or threads < 1:
        raise ValueError("warmup must be >= 0, min_samples and threads >= 1, max_seconds > 0")
    load = _load_average()
    with pinned(threads) as cores, _no_garbage_collection():
        mhz_before = _mhz(cores)
        warmed, settled = _warm_up(fn, warmup, max_seconds * _WARMUP_SHARE)
        before = _Usage.now()
        samples_ms = _sample(fn, min_samples, max_seconds)
        after = _Usage.now()
        mhz_after = _mhz(cores)
    conditions = Conditions(
        cores=cores,
        settled=settled,
        seconds=after.wall_s - before.wall_s,
        timer_overhead_ms=_timer_overhead_ms(),
        load_average=load,
        other_load_cores=after.other_cores_since(before),
        involuntary_switches=after.switches_since(before),
        mhz_before=mhz_before,
        mhz_after=mhz_after,
    )
    return Measurement(summarize(samples_ms, threads=threads, warmup=warmed), samples_ms, conditions)


def take_samples(fn: Fn, *, warmup: int = 5, min_samples: int = 50, max_seconds: float = 5.0) -> tuple[np.ndarray, int]:
    """(milliseconds per call (n,), calls of the warm-up): `measure` without a look at the machine around it, for a
    device that has nothing but numpy."""
    with _no_garbage_collection():
        warmed, _ = _warm_up(fn, warmup, max_seconds * _WARMUP_SHARE)
        return _sample(fn, min_samples, max_seconds), warmed


def summarize(samples_ms: np.ndarray, *, threads: int, warmup: int) -> Latency:
    """The record of a series of samples (n,) in milliseconds, in the order of measurement; n >= 2."""
    from profiles.results import Latency

    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, [50, 90, 99]))
    low, high = mean_interval(samples_ms)
    return Latency(
        p50=p50, p90=p90, p99=p99, mean=float(np.mean(samples_ms)), ci95=(max(low, 0.0), high),
        n=len(samples_ms), threads=threads, warmup=warmup,
    )  # fmt: skip


def compare(fn_a: Fn, fn_b: Fn, *, pairs: int = 100, warmup: int = 5, threads: int = 1) -> Ratio:
    """How much longer `fn_a` takes than `fn_b`, measured side by side in one run.

    The two are called in turns, and who goes first changes with every pair, so that drift of clock and heat hits both.
    """
    if pairs < 2:
        raise ValueError("an interval needs at least two pairs")
    log_ratios = np.empty(pairs)
    with pinned(threads), _no_garbage_collection():
        for _ in range(warmup):
            fn_a()
            fn_b()
        for index in range(pairs):
            if index % 2:
                a_ns, b_ns = _time_ns(fn_a), _time_ns(fn_b)
            else:
                b_ns, a_ns = _time_ns(fn_b), _time_ns(fn_a)
            log_ratios[index] = math.log(max(a_ns, 1)) - math.log(max(b_ns, 1))
    low, high = mean_interval(log_ratios)
    return Ratio(math.exp(float(log_ratios.mean())), (math.exp(low), math.exp(high)), pairs)


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[list[int] | None]:
    """Pin every thread of this process to `threads` cores, the idlest, one per physical core where there are enough.

    Gives the cores; None where the system cannot pin or there is nothing to choose. Threads started inside inherit
    the cores; every thread that was there before gets its own back.
    """
    available = usable_cores()
    if not hasattr(os, "sched_setaffinity") or threads >= len(available):
        yield None
        return
    cores = _idlest(available, threads)
    before = {thread: mask for thread in _thread_ids() if (mask := _affinity(thread)) is not None}
    try:
        for thread in before:
            _set_affinity(thread, set(cores))
        yield cores
    finally:
        for thread in _thread_ids():
            # Threads born inside were pinned by inheritance: they get what the process had.
            _set_affinity(thread, before.get(thread, set(available)))


def _thread_ids() -> list[int]:
    return [int(entry.name) for entry in _TASKS.iterdir()] if _TASKS.is_dir() else [0]


def _affinity(thread: int) -> set[int] | None:
    try:
        return os.sched_getaffinity(thread)
    except ProcessLookupError:  # the thread ended between listing and asking
        return None


def _set_affinity(thread: int, cores: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # the thread ended meanwhile
        os.sched_setaffinity(thread, cores)


def _idlest(available: list[int], count: int) -> list[int]:
    """The `count` least busy of the available cores (looked at for 50 ms), siblings of one physical core last."""
    import psutil

    busy = psutil.cpu_percent(interval=0.05, percpu=True)
    ordered = sorted(available, key=lambda core: (busy[core] if core < len(busy) else 0.0, core))
    first: list[int] = []
    siblings: list[int] = []
    seen: set[str] = set()
    for core in ordered:
        physical = _physical_core(core)
        (siblings if physical in seen else first).append(core)
        seen.add(physical)
    return sorted((first + siblings)[:count])


def _physical_core(core: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return path.read_text().strip() if path.is_file() else str(core)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _time_ns(fn: Fn) -> int:
    start = time.perf_counter_ns()
    fn()
    return time.perf_counter_ns() - start


def _warm_up(fn: Fn, calls: int, max_seconds: float) -> tuple[int, bool]:
    """Call `fn` until the median of a window is within 2 % of the one before. Gives the calls, and if it settled."""
    deadline = time.perf_counter() + max_seconds
    done = 0
    while done < calls and (done < 1 or time.perf_counter() < deadline):
        fn()
        done += 1
    previous = None
    while time.perf_counter() < deadline:
        window: list[int] = []
        window_end = time.perf_counter() + 0.05
        while len(window) < 5 or (time.perf_counter() < window_end and len(window) < 1000):
            window.append(_time_ns(fn))
            if time.perf_counter() >= deadline:
                break
        done += len(window)
        median = float(np.median(window))
        if previous is not None and abs(median - previous) <= _SETTLED * previous:
            return done, True
        previous = median
    return done, False


def _sample(fn: Fn, min_samples: int, max_seconds: float) -> np.ndarray:
    """Milliseconds per call, (n,)."""
    samples_ns: list[int] = []
    deadline = time.perf_counter() + max_seconds
    check_at = max(min_samples, _FEWEST)
    while len(samples_ns) < _FEWEST or time.perf_counter() < deadline:
        samples_ns.append(_time_ns(fn))
        if len(samples_ns) >= check_at:
            low, high = mean_interval(samples_ns)
            if (high - low) / 2 <= _PRECISE * (high + low) / 2:
                break
            check_at *= 2  # the check costs time of its own
    return np.asarray(samples_ns, np.float64) / 1e6


def _timer_overhead_ms() -> float:
    return float(np.median([_time_ns(lambda: None) for _ in range(200)])) / 1e6


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _mhz(cores: list[int] | None) -> float | None:
    """Clock of the first core that is measured on."""
    core = cores[0] if cores else 0
    path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")
    try:
        return int(path.read_text()) / 1000
    except (OSError, ValueError):  # virtual machines have no such file
        return None


@dataclass(frozen=True)
class _Usage:
    """Clocks of this process and of the whole machine, in seconds."""

    wall_s: float
    own_s: float
    busy_s: float | None
    switches: int | None

    @classmethod
    def now(cls) -> _Usage:
        import psutil

        times = psutil.cpu_times()
        fields = ("user", "nice", "system", "irq", "softirq", "steal")
        busy = sum(getattr(times, field, 0.0) for field in fields)
        switches = None
        with contextlib.suppress(ImportError):  # Windows
            import resource

            switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return cls(time.perf_counter(), time.process_time(), busy, switches)

    def other_cores_since(self, before: _Usage) -> float | None:
        """Cores kept busy by others. The machine's clocks tick in 10 ms: too short a time says nothing."""
        seconds = self.wall_s - before.wall_s
        if self.busy_s is None or before.busy_s is None or seconds < 0.1:
            return None
        return max(0.0, (self.busy_s - before.busy_s - (self.own_s - before.own_s)) / seconds)

    def switches_since(self, before: _Usage) -> int | None:
        if self.switches is None or before.switches is None:
            return None
        return self.switches - before.switches
