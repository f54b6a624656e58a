"""The gallery as a quantised index: int8 embeddings beside the model, searched by cosine. numpy only.

Embeddings are unit vectors, so a row needs no scale of its own: it is stretched to the whole range of int8, and its
cosine with a query q is `codes @ q / (|codes| |q|)`, whatever the stretching was. The device (firmware/index.h) finds
the same rows in the same order for the encoder's int8 outputs: integer sums, one float32 product per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from profiles.errors import RequestError
from profiles.storage import load_npz, save_npz

LARGEST = 127
BLOCK = 16384  # rows whose codes are widened at once


@dataclass(frozen=True, eq=False)
class Index:
    """codes: (G, D) int8, no row all zeros. labels: (G,) names."""

    codes: np.ndarray
    labels: tuple[str, ...]

    @classmethod
    def build(cls, embeddings: np.ndarray, labels: Sequence[str]) -> Index:
        """Quantise embeddings (G, D) of any length. Raises RequestError if one is zero or not finite, or labels differ
        in number."""
        embeddings = np.asarray(embeddings, np.float32)
        if embeddings.ndim != 2 or len(labels) != len(embeddings):
            raise RequestError(f"an index of {len(labels)} labels needs as many rows, not {embeddings.shape}")
        largest = np.abs(embeddings).max(axis=1, initial=0.0)
        if bad := np.flatnonzero(~(np.isfinite(largest) & (largest > 0))).tolist():
            raise RequestError(f"row {bad[0]} of the gallery ({labels[bad[0]]}) has no direction: zero or not finite")
        codes = np.rint(embeddings * (np.float32(LARGEST) / largest)[:, None]).astype(np.int8)
        return cls(codes, tuple(str(label) for label in labels))

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def inverse_norms(self) -> np.ndarray:
        """(G,) float32, 1 / |codes|."""
        squared = np.einsum("gd,gd->g", self.codes, self.codes, dtype=np.int64)
        return (1 / np.sqrt(squared.astype(np.float64))).astype(np.float32)

    def similarities(self, queries: np.ndarray) -> np.ndarray:
        """Cosines (n, G) float32 of queries (n, D). NaN in the rows of queries that are not finite.

        Integer queries (an int8 encoder's outputs less their zero point) are summed exactly, as the device does.
        """
        return self._scores(queries) / _norms(queries)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of a query (D,), best first, equally near ones in the gallery's order.

        Returns indices (k,) int64 and cosines (k,) float32; fewer where the gallery is smaller.
        """
        queries = np.asarray(query)[None]
        scores = self._scores(queries)[0]
        best = top_k(scores, k)
        return best, scores[best] / _norms(queries)[0]

    def _scores(self, queries: np.ndarray) -> np.ndarray:
        """Cosines times the queries' lengths, (n, G) float32."""
        # sums of products of small integers are exact in float64
        kind = np.float64 if np.issubdtype(np.asarray(queries).dtype, np.integer) else np.float32
        wide = np.asarray(queries, kind)
        result = np.empty((len(queries), len(self)), np.float32)
        for start in range(0, len(self), BLOCK):
            block = slice(start, start + BLOCK)
            result[:, block] = wide @ self.codes[block].T.astype(kind)
        return result * self.inverse_norms

    def save(self, path: Path) -> None:
        """Write an .npz with `codes` and `labels`."""
        save_npz(path, self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """What `save` writes, for an asset of a bundle."""
        return {"codes": self.codes, "labels": np.array(self.labels)}

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read what `save` wrote. Raises RequestError naming the file if it is no index."""
        arrays = load_npz(path)
        if missing := [name for name in ("codes", "labels") if name not in arrays]:
            raise RequestError(f"{path}: no array {missing[0]!r}, so this is no gallery index")
        if (
            arrays["codes"].dtype != np.int8
            or arrays["codes"].ndim != 2
            or len(arrays["labels"]) != len(arrays["codes"])
        ):
            raise RequestError(f"{path}: codes must be (G, D) int8 with G labels")
        return cls(arrays["codes"], tuple(arrays["labels"].tolist()))


def _norms(queries: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(np.asarray(queries, np.float64), axis=1, keepdims=True)
    return np.maximum(lengths, 1e-12).astype(np.float32)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest of scores (G,), best first, equal ones in order. What is not a number comes last."""
    descending = np.where(np.isnan(scores), np.inf, -scores)
    if k < len(scores):
        limit = np.partition(descending, k - 1)[k - 1]
        candidates = np.flatnonzero(descending <= limit)  # with all that equal the last: the first of them win
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(descending[candidates], kind="stable")[:k]]
