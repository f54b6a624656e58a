"""Ranks and shares of retrieval. numpy only."""

from __future__ import annotations

import numpy as np


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 (n, dim) float32; what is not finite stays so."""
    flat = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def ranks(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The rank (n,), from 1, of row i of `gallery` among all rows for query i. Rows have length 1.

    A row that is as near as the right one counts as nearer; a query that is not finite has the last rank and one more.
    """
    similarities = queries @ gallery.T
    right = similarities.diagonal()[:, None]
    found = (similarities >= right).sum(1)
    return np.where(np.isfinite(similarities).all(1), found, similarities.shape[1] + 1)


def recalls(name: str, found: np.ndarray) -> dict[str, float]:
    """R@1 and R@10 of ranks."""
    return {f"{name} R@{k}": float((found <= k).mean()) for k in (1, 10)}
