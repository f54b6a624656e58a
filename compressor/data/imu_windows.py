"""Windows of a body-worn inertial sensor, in one form whatever set they come from.

A window is (6, length) float32: accelerometer x, y, z in m/s2 (gravity is in it, as a real sensor measures: a phone
that lies flat on a table reads +9.81 on z), then gyroscope x, y, z in rad/s. Readers convert units and resample;
whoever reads a `Windows` never asks what its source had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from profiles.errors import RequestError

CHANNELS = ("acc x", "acc y", "acc z", "gyro x", "gyro y", "gyro z")
RATE_HZ = 50.0
LENGTH = 128  # samples of a window: 2.56 s
GRAVITY = 9.80665  # m/s2, one g
UNITS = {  # to m/s2 or rad/s
    "m/s2": 1.0,
    "g": GRAVITY,
    "rad/s": 1.0,
    "deg/s": np.pi / 180,
}


@dataclass(frozen=True)
class Windows:
    """n windows at `rate_hz`.

    signals      (n, 6, length) float32, channels as in CHANNELS; may be memory-mapped
    people       (n,) str: whose they are, the group that a split keeps together. Where a set names no people, what it
                 names instead (a clip, a case)
    labels       (n,) int64 index into `label_names`, or None where there are none
    """

    signals: np.ndarray
    rate_hz: float
    people: np.ndarray
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.signals.ndim != 3 or self.signals.shape[1] != len(CHANNELS) or self.signals.dtype != np.float32:
            raise ValueError(f"signals {self.signals.shape} {self.signals.dtype}, expected (n, 6, length) float32")
        for name, column in (("people", self.people), ("labels", self.labels)):
            if column is not None and column.shape != (len(self.signals),):
                raise ValueError(f"{name} {column.shape} for {len(self.signals)} windows")

    def __len__(self) -> int:
        return len(self.signals)

    def select(self, chosen: np.ndarray) -> Windows:
        """The windows at these indices, or where this mask (n,) is true."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, signals=self.signals[chosen], people=self.people[chosen], labels=labels)

    def of_people(self, people: Sequence[str]) -> Windows:
        """The windows of these people, in order. Raises RequestError naming the first who has none."""
        there = set(self.people.tolist())
        if unknown := [person for person in people if person not in there]:
            raise RequestError(f"no windows of {unknown[0]!r}; there are {', '.join(sorted(there))}")
        return self.select(np.flatnonzero(np.isin(self.people, list(people))))

    def without_people(self, people: Sequence[str]) -> Windows:
        """All other windows."""
        return self.select(np.flatnonzero(~np.isin(self.people, list(people))))


@dataclass(frozen=True)
class Recording:
    """One continuous recording: `signal` (6, t) float32 in the units of a window, `labels` (t,) int64, -1 for none."""

    person: str
    name: str
    signal: np.ndarray
    labels: np.ndarray
    rate_hz: float = RATE_HZ


@dataclass(frozen=True)
class Pairs:
    """Windows, each with the video of the same moments.

    windows      people are clips here
    video        (n, frames, height, width) uint8, 0 is background, or with a further axis of 3 where it is in colour;
                 frames evenly spread over the window from its first sample to its last; memory-mapped
    clip         (n,) str: the motion clip that the window is from; splits keep a clip's windows together
    site         (n,) str: where on the body the sensor is
    """

    windows: Windows
    video: np.ndarray
    clip: np.ndarray
    site: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)

    def split(self, clips: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the pairs that are not of these clips, and of those that are. RequestError for an unknown clip."""
        there = set(self.clip.tolist())
        if unknown := [name for name in clips if name not in there]:
            raise RequestError(f"no pairs of clip {unknown[0]!r}; there are {', '.join(sorted(there))}")
        held_out = np.isin(self.clip, list(clips))
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def to_si(signals: np.ndarray, accelerometer: str, gyroscope: str) -> np.ndarray:
    """Signals (..., 6, t) in the named units of UNITS -> m/s2 and rad/s, float32. RequestError for another unit."""
    if unknown := [unit for unit in (accelerometer, gyroscope) if unit not in UNITS]:
        raise RequestError(f"unit {unknown[0]!r}: there are {', '.join(UNITS)}")
    factors = np.repeat([UNITS[accelerometer], UNITS[gyroscope]], 3)
    return (np.asarray(signals, np.float64) * factors[:, None]).astype(np.float32)


def resample(signals: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """Signals (..., t) at another rate, float32: polyphase filtering (scipy), so that nothing folds back from above
    half of the new rate. The first sample stays where it is; the ends are continued by their slope, not by zero."""
    from scipy.signal import resample_poly

    if from_hz == to_hz:
        return np.asarray(signals, np.float32)
    ratio = Fraction(to_hz / from_hz).limit_denominator(1000)
    line = resample_poly(np.asarray(signals, np.float64), ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    return line.astype(np.float32)


def cut(signal: np.ndarray, step: int, length: int = LENGTH) -> np.ndarray:
    """(6, t) -> (n, 6, length): windows every `step` samples, as many as fit whole; views of the signal."""
    if signal.shape[-1] < length:
        return np.zeros((0, len(signal), length), signal.dtype)
    views = np.lib.stride_tricks.sliding_window_view(signal, length, axis=-1)[:, ::step]
    return views.transpose(1, 0, 2)


def save_windows(directory: Path, windows: Windows) -> None:
    """As files that `load_windows` reads: signals.npy (memory-mapped when read) and windows.npz."""
    from profiles.storage import save_npz

    np.save(directory / "signals.npy", windows.signals)
    arrays = {
        "people": windows.people,
        "rate_hz": np.array(windows.rate_hz),
        "label_names": np.array(windows.label_names, dtype=np.str_),
    }
    save_npz(directory / "windows.npz", arrays if windows.labels is None else {**arrays, "labels": windows.labels})


def load_windows(directory: Path) -> Windows:
    """What `save_windows` wrote."""
    from profiles.storage import load_npz

    arrays = load_npz(directory / "windows.npz")
    signals = np.load(directory / "signals.npy", mmap_mode="r")
    names = tuple(arrays["label_names"].tolist())
    return Windows(signals, float(arrays["rate_hz"]), arrays["people"], arrays.get("labels"), names)
