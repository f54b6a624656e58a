"""The activity recogniser as a bundle: the encoder's graph, real inputs, splits, class head, the stream's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from compressor.data.imu_windows import Windows
from compressor.tasks.imu.glue import METRIC, Glue
from compressor.tasks.imu.stream import HEAD, Head, StreamSettings
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from targets.export import BundleWriter

GRAPH = "encoder"
GOLDEN = 16  # windows


class Deployed(nn.Module):
    """The encoder as a stream feeds it: (n, length, 6), sample by sample. TFLite and C lay a picture of one row out the
    same way, so nothing is turned around there."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, window: Tensor) -> Tensor:
        return self.encoder(window.unsqueeze(1).permute(0, 3, 1, 2))


def export_student(
    writer: BundleWriter,
    encoder: nn.Module,
    settings: StreamSettings,
    head: Head,
    splits: Mapping[str, Windows],
    calibration: Windows,
) -> None:
    """Write everything about the student but its teacher and lineage.

    encoder      (n, 6, 1, length) float32, scaled -> (n, features)
    splits       "validation" and "test"; golden inputs are of the validation part
    calibration  training windows
    """
    writer.add_graph(
        GRAPH,
        Deployed(encoder.cpu().eval()),
        {"window": _feed(settings, splits["validation"], 2)},
        outputs=("embedding",),
        weights=GRAPH,
    )
    writer.golden(GRAPH, {"window": _feed(settings, splits["validation"], GOLDEN)})
    writer.calibration(GRAPH, {"window": _feed(settings, calibration, len(calibration))})
    writer.uses({"query": {GRAPH: 1}})
    writer.settings(settings.to_json())
    writer.asset(HEAD, head.arrays())
    glue = Glue({GRAPH: writer.reference(GRAPH)}, settings.to_json(), None, head)
    for part, windows in splits.items():
        assert windows.labels is not None  # a split has them
        arrays = {"signals": np.asarray(windows.signals), "labels": windows.labels, "people": windows.people}
        writer.split(part, arrays)
        writer.metric(METRIC, glue.evaluate(arrays).value, split=part, n=len(windows), of="student")


def _feed(settings: StreamSettings, windows: Windows, count: int) -> np.ndarray:
    """At most `count` windows, evenly spread, as the encoder's graph takes them."""
    chosen = windows.signals[evenly_spread(len(windows), count)]
    return settings.windows(settings.counts(np.asarray(chosen)))
