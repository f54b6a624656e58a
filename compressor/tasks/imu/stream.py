"""From a live signal to one decision per hop: windowing, scaling, class head, smoothing. numpy only.

Everything is float32 in a fixed order of operations, each rounded once, so that firmware/stream.h (C99, with or without
floating point hardware) decides by the same bits:

    count    = what the sensor gives, int16; a value in m/s2 or rad/s divided by the channel's `lsb`
    window   = (count * gain) + shift,                 gain = lsb / scale, shift = -offset / scale
    score_c  = (sum over d, in order, of weight_cd * embedding_d) * head_scale_c + bias_c
    smoothed = score at first, then smoothed + smoothing * (score - smoothed)
    decision = the class whose smoothed score is largest, the first of equal ones

A mean of scores over time is, up to what all classes share, the log of the geometric mean of the softmax probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from profiles.storage import load_npz

CHANNELS = 6
# A common part's ranges, 8 g and 2,000 degrees per second in int16: one count in m/s2 and in rad/s.
LSB = (8 * 9.80665 / 2**15,) * 3 + (np.deg2rad(2000).item() / 2**15,) * 3
CHUNK = 256  # windows per call of the encoder
HEAD = "head.npz"


@dataclass(frozen=True)
class StreamSettings:
    """Of a deployed student, as its bundle's settings hold them.

    rate_hz, length   of the signal, and of a window in samples
    hop               samples between two decisions; the first is at the first multiple of `hop` with a whole window
    smoothing         the newest window's part in what is decided, in (0, 1]; 1: no smoothing
    classes           their names, in the head's order
    offset, scale     per channel, in m/s2 and rad/s: the encoder gets (signal - offset) / scale
    lsb               per channel: m/s2 or rad/s of one count of the sensor
    """

    classes: tuple[str, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...] = (0.0,) * CHANNELS
    lsb: tuple[float, ...] = LSB
    rate_hz: float = 50.0
    length: int = 128
    hop: int = 50
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        for name in ("scale", "offset", "lsb"):
            values = getattr(self, name)
            if len(values) != CHANNELS or (name != "offset" and min(values) <= 0):
                raise RequestError(f"{name} {values}: give {CHANNELS} numbers, above 0 for scale and lsb")
        if not 0 < self.smoothing <= 1 or self.hop < 1 or self.length < 1:
            raise RequestError("smoothing lies in (0, 1], hop and length are at least 1")

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> StreamSettings:
        """Raises RequestError for settings that are not of a student on a stream."""
        names = {field.name for field in fields(cls)}
        try:
            chosen = ((name, value) for name, value in settings.items() if name in names)
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in chosen
            }
            return cls(**values)
        except TypeError as error:
            raise RequestError(f"settings of an imu student: {error}") from None

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def gain(self) -> np.ndarray:
        """(6,) float32."""
        return (np.array(self.lsb) / np.array(self.scale)).astype(np.float32)

    @property
    def shift(self) -> np.ndarray:
        """(6,) float32."""
        return (-np.array(self.offset) / np.array(self.scale)).astype(np.float32)

    def counts(self, signals: np.ndarray) -> np.ndarray:
        """(..., 6, t) in m/s2 and rad/s -> (..., t, 6) int16, as the sensor would give them, at its ends saturated."""
        limits = np.iinfo(np.int16)
        steps = np.rint(np.moveaxis(signals, -2, -1).astype(np.float64) / np.array(self.lsb))
        return np.clip(steps, limits.min, limits.max).astype(np.int16)

    def windows(self, counts: np.ndarray) -> np.ndarray:
        """(..., t, 6) int16 -> the encoder's input, float32."""
        return counts.astype(np.float32) * self.gain + self.shift

    def ends(self, samples: int) -> np.ndarray:
        """How many samples were received at each decision of a stream of so many."""
        first = -(-self.length // self.hop) * self.hop
        return np.arange(first, samples + 1, self.hop)


@dataclass(frozen=True)
class Head:
    """A linear class head. `weight` (classes, D) int8 or int16, `scale` and `bias` (classes,) float32."""

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    @classmethod
    def quantise(cls, weight: np.ndarray, bias: np.ndarray, dtype: str = "int8") -> Head:
        """Of float weights (classes, D) and biases (classes,): symmetric, one scale per class."""
        limit = np.iinfo(dtype).max
        scale = np.maximum(np.abs(weight).max(axis=1) / limit, np.finfo(np.float32).tiny)
        whole = np.rint(weight / scale[:, None]).astype(dtype)
        return cls(whole, scale.astype(np.float32), np.asarray(bias, np.float32))

    @classmethod
    def load(cls, path: Path) -> Head:
        """What `arrays` gave, from a file. Raises RequestError if that is not in it."""
        arrays = load_npz(path)
        if missing := [name for name in ("weight", "scale", "bias") if name not in arrays]:
            raise RequestError(f"{path}: no array {missing[0]!r}, so it is no class head")
        return cls(arrays["weight"], arrays["scale"], arrays["bias"])

    def arrays(self) -> dict[str, np.ndarray]:
        return {"weight": self.weight, "scale": self.scale, "bias": self.bias}

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings (n, D) float32 -> scores (n, classes) float32."""
        products = embeddings[:, None, :].astype(np.float32) * self.weight.astype(np.float32)
        return np.add.accumulate(products, axis=-1, dtype=np.float32)[..., -1] * self.scale + self.bias


@dataclass(frozen=True)
class Decision:
    """`end`: samples received when it was made. `scores` (classes,) float32, smoothed."""

    end: int
    label: str
    index: int
    scores: np.ndarray


def smooth(scores: np.ndarray, smoothing: float, before: np.ndarray | None = None) -> np.ndarray:
    """Scores (n, classes) float32, in order of time -> smoothed ones. `before`: the last smoothed ones, if any."""
    weight = np.float32(smoothing)
    rows = []
    for row in scores:
        before = row if before is None else before + weight * (row - before)
        rows.append(before)
    return np.stack(rows) if rows else scores


class Decider:
    """Decides on windows and on signals. `encode`: (n, length, 6) float32 -> embeddings (n, D) float32."""

    def __init__(self, settings: StreamSettings, head: Head, encode: Callable[[np.ndarray], np.ndarray]) -> None:
        if len(head.weight) != len(settings.classes):
            raise RequestError(f"a head of {len(head.weight)} classes for {len(settings.classes)} names")
        self.settings, self.head, self._encode = settings, head, encode

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """Windows (n, length, 6) int16 -> scores (n, classes), each window by itself."""
        parts = [
            self.head(self._encode(self.settings.windows(counts[start : start + CHUNK])))
            for start in range(0, len(counts), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.settings.classes)), np.float32)

    def decide_alone(self, counts: np.ndarray) -> Decision:
        """The decision on one window (length, 6) int16 by itself."""
        return self._decisions(np.array([len(counts)]), self.scores(counts[None]))[0]

    def decide(self, counts: np.ndarray) -> list[Decision]:
        """All decisions on a signal (t, 6) int16 that is there whole."""
        smoothed = smooth(self.stream_scores(counts), self.settings.smoothing)
        return self._decisions(self.settings.ends(len(counts)), smoothed)

    def stream_scores(self, counts: np.ndarray) -> np.ndarray:
        """The scores (decisions, classes) on a signal (t, 6) int16, not smoothed."""
        starts = self.settings.ends(len(counts)) - self.settings.length
        if not len(starts):
            return self.scores(np.zeros((0, self.settings.length, CHANNELS), np.int16))
        views = np.lib.stride_tricks.sliding_window_view(counts, self.settings.length, axis=0).swapaxes(1, 2)
        return self.scores(views[starts])

    def _decisions(self, ends: np.ndarray, smoothed: np.ndarray) -> list[Decision]:
        found = []
        for end, row in zip(ends.tolist(), smoothed, strict=True):
            index = int(np.argmax(row))
            found.append(Decision(end, self.settings.classes[index], index, row))
        return found


class Stream(Decider):
    """The same on a signal that is still coming.

    >>> stream.push(counts)      # any number of samples, (m, 6) int16 -> the decisions that they made possible
    """

    def __init__(self, settings: StreamSettings, head: Head, encode: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(settings, head, encode)
        self.restart()

    def restart(self) -> None:
        """Forget what was pushed."""
        self._kept = np.zeros((0, CHANNELS), np.int16)
        self._received = 0
        self._smoothed: np.ndarray | None = None

    def push(self, samples: np.ndarray) -> list[Decision]:
        """Samples (m, 6) int16 -> the decisions of this moment, oldest first."""
        self._kept = np.concatenate([self._kept, samples])
        self._received += len(samples)
        start = self._received - len(self._kept)  # of what is kept
        ends = self.settings.ends(self._received)
        ends = ends[ends > self._received - len(samples)]
        found: list[Decision] = []
        for end in ends.tolist():
            window = self._kept[end - self.settings.length - start : end - start]
            smoothed = smooth(self.scores(window[None]), self.settings.smoothing, self._smoothed)
            self._smoothed = smoothed[-1]
            found += self._decisions(np.array([end]), smoothed)
        self._kept = self._kept[-self.settings.length :]
        return found
