"""BasicMotions: four people with a smart watch walk, rest, run and play badminton; 40 + 40 recordings of 10 s, 10 Hz.

A set of the UEA archive (Bagnall et al., arXiv 1811.00075), here as the package aeon ships it. No person is named, and
gravity is not in the accelerometer's values, whose units the set does not state: resting, they lie near 0, running, in
the tens, so they are read as m/s2 of linear acceleration, and the gyroscope's as rad/s. Every recording becomes one
window at the rate and length that a student takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.imu_windows import LENGTH, RATE_HZ, Windows, load_windows, resample, save_windows
from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source
from profiles.errors import RequestError

ORIGINAL_HZ = 10.0
PARTS = ("train", "test")
PACKAGE = Package(
    client="pip",
    name="aeon",
    version="1.6.0",
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    licence="BSD-3-Clause",
    url="https://www.timeseriesclassification.com/description.php?Dataset=BasicMotions",
    note="the licence is the package's; the UEA archive names none for the set",
)


def load(path: Path) -> tuple[Windows, Windows]:
    """The published training and test part, one window per case: the middle 2.56 s. "People" are the cases."""
    train, test = (load_windows(path / part) for part in PARTS)
    return train, test


def load_whole(path: Path) -> tuple[Windows, Windows]:
    """The same cases whole, 10 s at RATE_HZ, for windows anywhere in them."""
    train, test = (load_windows(path / f"{part}-whole") for part in PARTS)
    return train, test


def read_ts(text: str, where: str) -> tuple[np.ndarray, list[str], tuple[str, ...]]:
    """A file of equal-length cases in the archive's form: (cases, channels, t), each case's class, the classes' names.

    Raises RequestError, naming the line, for anything else.
    """
    names: tuple[str, ...] = ()
    cases: list[np.ndarray] = []
    labels: list[str] = []
    body = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.lower().startswith("@classlabel"):
            names = tuple(line.split()[2:])
        elif line.lower() == "@data":
            body = True
        elif body and line:
            *channels, label = line.split(":")
            try:
                case = np.array([[float(value) for value in channel.split(",")] for channel in channels], np.float64)
            except ValueError as error:
                raise RequestError(f"{where}, line {number}: {error}") from None
            if label not in names or (cases and case.shape != cases[0].shape):
                raise RequestError(f"{where}, line {number}: a case of {case.shape} and class {label!r}")
            cases.append(case)
            labels.append(label)
    if not cases:
        raise RequestError(f"{where}: no case after @data")
    return np.stack(cases), labels, names


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    files = read_members(archives[PACKAGE.name], lambda path: "/BasicMotions/" in path and path.endswith(".ts"))
    counts = {}
    for part in PARTS:
        name = next(path for path in files if path.endswith(f"_{part.upper()}.ts"))
        cases, labels, names = read_ts(files[name].decode("utf-8"), name)
        signals = resample(cases, ORIGINAL_HZ, RATE_HZ)
        start = (signals.shape[-1] - LENGTH) // 2
        groups = np.array([f"{part}-{number}" for number in range(len(cases))])
        index = np.array([names.index(label) for label in labels], np.int64)
        for folder, values in ((part, signals[..., start : start + LENGTH]), (f"{part}-whole", signals)):
            (directory / folder).mkdir()
            whole = np.ascontiguousarray(values)
            save_windows(directory / folder, Windows(whole, RATE_HZ, groups, index, tuple(map(str.lower, names))))
        counts[part] = len(cases)
    return {"cases": counts}


source = Source(
    name="basicmotions",
    summary="Eighty short recordings of a smart watch: walking, standing, running, badminton (real signals)",
    packages=(PACKAGE,),
    build=build,
)
