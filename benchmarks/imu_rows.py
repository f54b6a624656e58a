"""Rows of benchmarks/imu.py: settings chosen on validation people, intervals over test people and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Part = Mapping[str, np.ndarray]
RESAMPLES = 2000
BASE = "no pre-training"
# What is compared, beside every variant with no pre-training and every variant of COMODO ("COMODO, ...") with it.
COMPARISONS = [
    ("COMODO", "random teacher"),
    ("COMODO", "InfoNCE"),
    ("COMODO", "L2"),
    ("COMODO", "SimCLR"),
    ("COMODO, then SimCLR", "SimCLR"),
    ("COMODO with SimCLR", "SimCLR"),
    ("COMODO, then SimCLR", "SimCLR, twice the steps"),
    ("COMODO with SimCLR", "SimCLR, twice the steps"),
    ("COMODO, tiny-imu-16", "no pre-training, tiny-imu-16"),
]


def all_rows(parts: Mapping[str, Sequence[Part]]) -> list[dict[str, Any]]:
    """One row per variant, readout, share of labels and set; then the differences."""
    rows, scores = [], {}
    for variant, own in parts.items():
        for readout, share in _places(own[0]):
            chosen, validation = _choose(own, readout, share)
            values, weights = _by_person(own, readout, share, chosen)
            scores[variant, readout, share] = values, weights
            rows.append(
                _row(variant, readout, "hapt", f"{float(share):.0%}", values, weights)
                | {"chosen": float(chosen), "validation": validation, "draws": len(_draws(own[0], readout, share))}
                | _costs(own[0])
            )
        found = {tuple(key.split("/")[1:3]) for key in own[0] if key.startswith("basicmotions/")}
        for readout, cases in sorted(found, key=lambda place: (place[0] != "frozen", int(place[1]))):
            values, weights = _by_case(own, readout, cases)
            scores[variant, readout, f"{cases} cases"] = values, weights
            rows.append(_row(variant, readout, "basicmotions", f"{cases} per class", values, weights) | _costs(own[0]))
    return rows + _differences(scores)


def _places(part: Part) -> list[tuple[str, str]]:
    """(readout, share) in order."""
    found = [tuple(key.split("/")[:2]) for key in part if key.startswith(("frozen/", "fine-tuned/"))]
    return sorted(dict.fromkeys(found), key=lambda place: (place[0] != "frozen", float(place[1])))  # type: ignore[arg-type,return-value]


def _draws(part: Part, readout: str, share: str) -> list[str]:
    return sorted({key.split("/")[2] for key in part if key.startswith(f"{readout}/{share}/")})


def _choose(own: Sequence[Part], readout: str, share: str) -> tuple[str, float | None]:
    """The setting with the best accuracy on the validation people over seeds and draws, and that accuracy."""
    settings = list(dict.fromkeys(key.split("/")[3] for key in own[0] if key.startswith(f"{readout}/{share}/")))
    if not len(own[0]["validation"]):  # they were learned from: nothing is left to choose
        return settings[0], None
    found = {}
    for setting in settings:
        values = [
            (part[f"{readout}/{share}/{draw}/{setting}/validation"] == part["validation"]).mean()
            for part in own
            for draw in _draws(part, readout, share)
        ]
        found[setting] = float(np.mean(values))
    best = max(found, key=lambda setting: found[setting])
    return best, found[best]


def best_with_all_labels(parts: Mapping[str, Sequence[Part]]) -> tuple[str, str]:
    """The variant whose fine-tuned students are best on the validation people, and its learning rate."""
    chosen = {variant: _choose(own, "fine-tuned", "1.0") for variant, own in parts.items()}
    best = max(chosen, key=lambda variant: chosen[variant][1] or 0.0)
    return best, chosen[best][0]


def _by_person(own: Sequence[Part], readout: str, share: str, setting: str) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (seeds, people), mean over label draws, and how many windows each person has."""
    people, place, counts = np.unique(own[0]["people"], return_inverse=True, return_counts=True)
    values = np.zeros((len(own), len(people)))
    for seed, part in enumerate(own):
        for draw in (draws := _draws(part, readout, share)):
            right = part[f"{readout}/{share}/{draw}/{setting}/test"] == part["test"]
            values[seed] += np.bincount(place, right) / counts / len(draws)
    return values, counts


def _by_case(own: Sequence[Part], readout: str, cases: str) -> tuple[np.ndarray, np.ndarray]:
    """Right answers (seeds, test cases), mean over draws: this set has no people's ids."""
    keys = [key for key in own[0] if key.startswith(f"basicmotions/{readout}/{cases}/")]
    values = np.stack([np.mean([part[key] for key in keys], axis=0) for part in own])
    return values, np.ones(values.shape[1])


def two_way_interval(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """95 % percentile bootstrap of the weighted mean of (seeds, items), both drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, items = values.shape
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = rng.integers(0, items, items)
        rows = values[rng.integers(0, seeds, seeds)].mean(0)
        means[number] = np.average(rows[drawn], weights=weights[drawn])
    return np.quantile(means, [0.025, 0.975]).tolist()


def _row(variant: str, readout: str, name: str, labels: str, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    by_seed = np.average(values, axis=1, weights=weights)
    return {
        "task": "imu",
        "variant": variant,
        "readout": readout,
        "set": name,
        "labels": labels,
        "metric": "accuracy",
        "value": float(by_seed.mean()),
        "ci95": two_way_interval(values, weights),
        "n": int(weights.sum()),
        "by_seed": by_seed.tolist(),
        "macs": None,
        "parameters": None,
    }


def _costs(part: Part) -> dict[str, Any]:
    if "cost" not in part:
        return {}
    macs, parameters = part["cost"].tolist()
    return {"macs": macs, "parameters": parameters}


def _differences(scores: Mapping[tuple[str, str, str], tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    variants = list(dict.fromkeys(variant for variant, _, _ in scores))
    pairs = [(variant, BASE) for variant in variants if variant != BASE]
    pairs += [(variant, "COMODO") for variant in variants if variant.startswith("COMODO,")] + COMPARISONS
    pairs = list(dict.fromkeys(pairs))
    rows = []
    for one, other in pairs:
        for variant, readout, share in scores:
            if variant != one or (other, readout, share) not in scores:
                continue
            (a, weights), (b, _) = scores[one, readout, share], scores[other, readout, share]
            if len(a) != len(b):  # hand-made features have one seed
                a, b = a.mean(0, keepdims=True), b.mean(0, keepdims=True)
            name, labels = (
                ("basicmotions", share.replace("cases", "per class"))
                if "cases" in share
                else ("hapt", f"{float(share):.0%}")
            )
            rows.append(_row(f"{one} minus {other}", readout, name, labels, a - b, weights))
    return rows
