"""The activity recogniser on a device: scale a window, encode it, ask the class head, smooth over time. numpy only.

Settings of the bundle: those of stream.StreamSettings (classes, scale, offset, lsb, rate_hz, length, hop, smoothing).
Graph: `encoder` ("window" (batch, length, 6) float32, scaled -> "embedding" (batch, D)).
Asset: head.npz, the class head (stream.Head.arrays).
Arrays of a split: `signals` (n, 6, length) float32 in m/s2 and rad/s, `labels` (n,) index into the classes.

A query is one window (6, length), and `glue(window)` decides on it alone; `glue.stream()` decides on a live signal, and
`glue.decide(signal)` on a recorded one, once per hop and smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.tasks.imu.stream import HEAD, Decider, Decision, Head, Stream, StreamSettings
from profiles.errors import RequestError
from targets.glue import Answer, Evaluation, Example, GraphCall, evenly_spread
from targets.graph import Arrays

METRIC = "accuracy"
PICTURE_HEIGHT_PX = 96
COLOURS = ((200, 40, 40), (30, 130, 60), (40, 70, 200))  # x, y, z


class Glue:
    """See the module's docstring for graph, settings and asset."""

    def __init__(
        self,
        graphs: Mapping[str, GraphCall],
        settings: Mapping[str, Any],
        assets: Path | None,
        head: Head | None = None,
    ) -> None:
        """`head`: in place of the asset, where there is none yet."""
        if "encoder" not in graphs:
            raise RequestError(f"an imu student has the graph encoder, here there are {', '.join(graphs) or 'none'}")
        if head is None and (assets is None or not (Path(assets) / HEAD).is_file()):
            raise RequestError(f"this student has no class head (assets/{HEAD})")
        self.settings = StreamSettings.from_json(settings)
        self._encoder = graphs["encoder"]
        self._parts = (self.settings, head or Head.load(Path(str(assets)) / HEAD), self._encode)
        self._decider = Decider(*self._parts)

    def __call__(self, query: np.ndarray) -> Decision:
        """The decision on one window (6, length) alone. Batch 1, as on the device."""
        return self._decider.decide_alone(self.settings.counts(query))

    def stream(self) -> Stream:
        """A new stream: push samples as they come."""
        return Stream(*self._parts)

    def decide(self, signal: np.ndarray) -> list[Decision]:
        """All decisions on a recorded signal (6, t) in m/s2 and rad/s."""
        return self.decide_counts(self.settings.counts(signal))

    def decide_counts(self, counts: np.ndarray) -> list[Decision]:
        """All decisions on a signal (t, 6) int16 of the sensor's counts."""
        return self._decider.decide(counts)

    def stream_scores(self, counts: np.ndarray) -> np.ndarray:
        """Their scores (decisions, classes) before smoothing."""
        return self._decider.stream_scores(counts)

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        """Whether each window's class is right (1 or 0), each window by itself; extras: the recall of every class.

        A window whose scores are not all finite is wrong.
        """
        truth = np.asarray(arrays["labels"][: _count(arrays)][:limit], np.int64)
        scores = self._decider.scores(self.settings.counts(arrays["signals"][: len(truth)]))
        right = (scores.argmax(axis=1) == truth) & np.isfinite(scores).all(axis=1)
        recalls = {
            f"recall of {name}": float(right[truth == index].mean())
            for index, name in enumerate(self.settings.classes)
            if (truth == index).any()
        }
        return Evaluation(METRIC, right.astype(np.float64), extras=recalls)

    def queries(self, arrays: Arrays) -> Iterator[np.ndarray]:
        """The split's windows."""
        for index in range(_count(arrays)):
            yield arrays["signals"][index]

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        """Windows evenly spread over the split, drawn, each with its classes from the likeliest down."""
        chosen = evenly_spread(_count(arrays), count)
        signals = np.asarray(arrays["signals"][chosen])
        scores = self._decider.scores(self.settings.counts(signals))
        examples = []
        for signal, truth, row in zip(signals, arrays["labels"][chosen], scores, strict=True):
            answers = tuple(
                Answer(None, self.settings.classes[index], int(index) == int(truth))
                for index in np.argsort(-row, kind="stable")
            )
            title = self.settings.classes[int(truth)]
            examples.append(Example(title, draw(signal, PICTURE_HEIGHT_PX), answers))
        return examples

    def _encode(self, windows: np.ndarray) -> np.ndarray:
        embedding = self._encoder({"window": windows})["embedding"]
        return np.asarray(embedding, np.float32).reshape(len(windows), -1)


def draw(signal: np.ndarray, height_px: int) -> np.ndarray:
    """A window (6, length) as a picture (2 * height_px, 2 * length, 3): accelerometer above, gyroscope below."""
    panels = []
    for rows in (signal[:3], signal[3:]):
        reach = max(float(np.abs(rows).max()), 1e-6)
        panel = np.full((height_px, 2 * rows.shape[1], 3), 255, np.uint8)
        panel[height_px // 2] = 225  # zero
        middle = (height_px - 1) / 2
        for row, colour in zip(rows, COLOURS, strict=True):
            line = np.interp(np.arange(2 * len(row)) / 2, np.arange(len(row)), row)
            place = np.rint(middle - line / reach * middle).astype(int)
            before = np.concatenate([place[:1], place[:-1]])
            for column, (a, b) in enumerate(zip(np.minimum(place, before), np.maximum(place, before), strict=True)):
                panel[a : b + 1, column] = colour
        panels.append(panel)
    return np.concatenate(panels)


def _count(arrays: Arrays) -> int:
    missing = [name for name in ("signals", "labels") if name not in arrays]
    if missing:
        raise RequestError(f"the split has no array {missing[0]!r}, so it is none of the imu task")
    return len(arrays["labels"])
