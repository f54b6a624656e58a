"""Sketch: a vector drawing as a few flat arrays. numpy only, because devices read it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sketch:
    """Strokes in the unit square, x to the right and y down.

    points: (P, 2) float32, the strokes' polylines one after the other; a closed line repeats its first point.
    offsets: (S + 1,) int64, stroke s is `points[offsets[s]:offsets[s + 1]]`.
    widths: (S,) float32, line width as a fraction of the square's side; 0 for filled outlines.
    filled: (S,) int32, 0 for a line; k > 0 for an outline of the filled shape k of this sketch (closed implicitly).
        Outlines that share k are filled together by the non-zero winding rule, so an inner one of opposite
        direction is a hole.
    """

    points: np.ndarray
    offsets: np.ndarray
    widths: np.ndarray
    filled: np.ndarray

    def __len__(self) -> int:
        return len(self.widths)

    def stroke(self, index: int) -> np.ndarray:
        """The polyline (n, 2) of one stroke."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def from_strokes(
        cls,
        strokes: Sequence[np.ndarray | Sequence[Sequence[float]]],
        widths: Sequence[float] | float,
        filled: Sequence[int] | int = 0,
    ) -> Sketch:
        """Join polylines. Raises ValueError on an empty stroke, a wrong shape or a number that is not finite.

        >>> Sketch.from_strokes([[[0.1, 0.5], [0.9, 0.5]]], widths=0.03).offsets.tolist()
        [0, 2]
        """
        arrays = [np.asarray(stroke, np.float32) for stroke in strokes]
        for index, array in enumerate(arrays):
            if array.ndim != 2 or array.shape[1] != 2 or not len(array):
                raise ValueError(f"stroke {index} has shape {array.shape}, expected (points, 2)")
            if not np.isfinite(array).all():
                raise ValueError(f"stroke {index} has a coordinate that is not a finite number")
        count = len(arrays)
        return cls(
            points=np.concatenate(arrays) if arrays else np.zeros((0, 2), np.float32),
            offsets=np.cumsum([0, *map(len, arrays)], dtype=np.int64),
            widths=np.ascontiguousarray(np.broadcast_to(np.asarray(widths, np.float32), (count,))),
            filled=np.ascontiguousarray(np.broadcast_to(np.asarray(filled, np.int32), (count,))),
        )


FIELDS = ("points", "offsets", "widths", "filled", "strokes")


def pack_sketches(sketches: Sequence[Sketch], prefix: str = "sketch_") -> dict[str, np.ndarray]:
    """Flat arrays for an .npz: Sketch's fields of all sketches joined (offsets absolute), and `strokes`, (n + 1,)
    int64: sketch i has the strokes `strokes[i]:strokes[i + 1]`."""
    shift, offsets = 0, [np.zeros(1, np.int64)]
    for sketch in sketches:
        offsets.append(sketch.offsets[1:] + shift)
        shift += len(sketch.points)

    def joined(name: str, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *(getattr(sketch, name) for sketch in sketches)])

    return {
        f"{prefix}points": joined("points", np.zeros((0, 2), np.float32)),
        f"{prefix}offsets": np.concatenate(offsets),
        f"{prefix}widths": joined("widths", np.zeros(0, np.float32)),
        f"{prefix}filled": joined("filled", np.zeros(0, np.int32)),
        f"{prefix}strokes": np.cumsum([0, *map(len, sketches)], dtype=np.int64),
    }


def unpack_sketch(arrays: Mapping[str, np.ndarray], index: int, prefix: str = "sketch_") -> Sketch:
    """One sketch of packed arrays; its points are a view, so memory-mapped arrays stay on disk."""
    first, last = (int(i) for i in arrays[f"{prefix}strokes"][index : index + 2])
    offsets = np.asarray(arrays[f"{prefix}offsets"][first : last + 1])
    return Sketch(
        points=np.asarray(arrays[f"{prefix}points"][offsets[0] : offsets[-1]]),
        offsets=offsets - offsets[0],
        widths=np.asarray(arrays[f"{prefix}widths"][first:last]),
        filled=np.asarray(arrays[f"{prefix}filled"][first:last]),
    )


def unpack_sketches(arrays: Mapping[str, np.ndarray], prefix: str = "sketch_") -> list[Sketch]:
    """What `pack_sketches` packed. Raises KeyError, naming it, if an array is not there."""
    for name in FIELDS:
        if f"{prefix}{name}" not in arrays:
            raise KeyError(f"{prefix}{name}")
    return [unpack_sketch(arrays, index, prefix) for index in range(len(arrays[f"{prefix}strokes"]) - 1)]
