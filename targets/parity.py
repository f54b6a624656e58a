"""Are these the same outputs? The limits stand in docs/architecture.md and are the same for every runtime.

fp32: every element differs by at most 1e-4 x max(1, |reference|). fp16: the smallest cosine over the samples is at
least .999 and nothing overflowed. int8: the signal to noise ratio is at least 20 dB (the metric drop is the bench's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

FP32_LIMIT = 1e-4
FP16_COSINE = 0.999
INT8_SQNR_DB = 20.0
SQNR_CEILING_DB = 200.0  # what is written for identical outputs: JSON knows no infinity

Agreement = Literal["argmax", "nearest"]


@dataclass(frozen=True)
class Parity:
    """What a comparison found. `worst` is max(|difference| / max(1, |reference|)); `finite`: no NaN or infinity
    where the reference is finite. `max_abs`, `worst`, `cosine_min` and `sqnr_db` are None if outputs are not finite."""

    max_abs: float | None
    worst: float | None
    cosine_min: float | None
    sqnr_db: float | None
    agreement: float | None
    n: int
    finite: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], agreement: Agreement | None = None
) -> Parity:
    """Compare outputs with a float reference, name by name.

    Arrays are (n, ...) with the same n. The worst output decides each number. Raises ValueError if an output is
    missing or has another shape, which no limit could excuse.
    """
    parts = []
    for name, expected in reference.items():
        if name not in outputs:
            raise ValueError(f"output {name!r} is missing; there are {', '.join(outputs) or 'none'}")
        found = np.asarray(outputs[name])
        if found.shape != expected.shape:
            raise ValueError(f"output {name!r} has shape {found.shape}, the reference {expected.shape}")
        parts.append(_compare_one(np.asarray(expected), found))
    if not parts:
        raise ValueError("there is no output to compare")
    n = len(next(iter(reference.values())))
    agreed = _agreement(reference, outputs, agreement)
    if not all(part is not None for part in parts):
        return Parity(None, None, None, None, agreed, n, finite=False)
    known = [part for part in parts if part is not None]
    max_abs, worst = (max(part[i] for part in known) for i in (0, 1))
    cosine, sqnr = (min(part[i] for part in known) for i in (2, 3))
    return Parity(max_abs, worst, cosine, sqnr, agreed, n, finite=True)


def _compare_one(reference: np.ndarray, outputs: np.ndarray) -> tuple[float, float, float, float] | None:
    """(max |difference|, worst relative to max(1, |reference|), smallest cosine, SQNR in dB), or None if not finite."""
    a = reference.astype(np.float64).reshape(len(reference), -1)
    b = outputs.astype(np.float64).reshape(len(outputs), -1)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # an infinity that the reference has too is no overflow
    if not np.all(np.isfinite(b) | same):
        return None
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.all(finite | same):
        return None
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    if a.size == 0:
        return 0.0, 0.0, 1.0, SQNR_CEILING_DB
    difference = np.abs(a - b)
    worst = difference / np.maximum(1.0, np.abs(a))
    return float(difference.max()), float(worst.max()), _cosine_min(a, b), sqnr_db(a, b)


def _cosine_min(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest cosine over the rows. Two zero rows agree (1), one zero row does not (0)."""
    norms_a, norms_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = norms_a * norms_b
    cosine = np.divide((a * b).sum(axis=1), product, out=np.zeros_like(product), where=product > 0)
    return float(np.where((norms_a == 0) & (norms_b == 0), 1.0, cosine).min())


def sqnr_db(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Signal to quantisation noise ratio, 10 log10(sum r^2 / sum (r - o)^2), within +-SQNR_CEILING_DB."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - outputs).sum())
    if noise == 0:
        return SQNR_CEILING_DB
    if signal == 0:
        return -SQNR_CEILING_DB
    return float(np.clip(10 * np.log10(signal / noise), -SQNR_CEILING_DB, SQNR_CEILING_DB))


def _agreement(
    reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], kind: Agreement | None
) -> float | None:
    """Share of samples that would be answered alike, judged on the first output that is (n, classes or dimensions)."""
    for name, expected in reference.items():
        if expected.ndim != 2 or expected.shape[1] < 2 or not np.issubdtype(expected.dtype, np.floating):
            continue
        found = np.nan_to_num(np.asarray(outputs[name]))
        kind = kind or ("nearest" if "embed" in name or "feature" in name else "argmax")
        if kind == "argmax":
            return float(np.mean(expected.argmax(axis=1) == found.argmax(axis=1)))
        return _nearest_agreement(expected, found)
    return None


def _nearest_agreement(reference: np.ndarray, outputs: np.ndarray) -> float | None:
    """Share of samples whose nearest other reference (by cosine) stays the same when the sample is replaced."""
    if len(reference) < 3:
        return None

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    gallery, diagonal = unit(reference.astype(np.float64)), np.arange(len(reference))
    answers = []
    for queries in (gallery, unit(outputs.astype(np.float64))):
        similarity = queries @ gallery.T
        similarity[diagonal, diagonal] = -np.inf
        answers.append(similarity.argmax(axis=1))
    return float(np.mean(answers[0] == answers[1]))


def failure(parity: Parity, precision: str) -> str | None:
    """Why the outputs do not pass at `precision` ("fp32", "fp16", "int8"); None if they do."""
    if not parity.finite or parity.worst is None or parity.cosine_min is None or parity.sqnr_db is None:
        return "outputs are infinite or NaN where the reference is finite"
    if precision == "fp32" and parity.worst > FP32_LIMIT:
        return f"differs by {parity.worst:.2g} x max(1, |reference|), the fp32 limit is {FP32_LIMIT:g}"
    if precision == "fp16" and parity.cosine_min < FP16_COSINE:
        return f"cosine {parity.cosine_min:.5f} is below the fp16 limit of {FP16_COSINE}"
    if precision == "int8" and parity.sqnr_db < INT8_SQNR_DB:
        return f"signal to noise {parity.sqnr_db:.1f} dB is below the int8 limit of {INT8_SQNR_DB:g} dB"
    return None


def passes(parity: Parity, precision: str) -> bool:
    """Whether the outputs pass at `precision`."""
    return failure(parity, precision) is None
