"""The paper's data sets, from a copy on disk: Ego4D, EgoExo4D and UESTC-MMEA-CL, in the form that COMODO reads.

    Ego4D       train.txt val.txt test.txt     VIDEO_UID tab SCENARIO
                imu/VIDEO_UID.csv              canonical_timestamp_ms, gyro_x..z rad/s, accl_x..z m/s2
                full_scale/VIDEO_UID.mp4
    EgoExo4D    train.txt val.txt test.txt     TAKE tab TASK
                processed_imu/TAKE.npy         (6, t) m/s2 and rad/s at 200 Hz, as the paper extracts it from the VRS
                videos/TAKE.mp4                the wearer's own camera
    UESTC-MMEA-CL   train.txt val.txt test.txt .../NUMBER_ACTIVITY/NAME and further columns
                sensor/NUMBER_ACTIVITY/NAME.csv   counts: accelerometer, 16,384 to the g, gyroscope, 16.4 to the deg/s
                video/NUMBER_ACTIVITY/NAME.mp4

Sources: the sets' documentation, and the preparation beside Chen et al., COMODO (2025). Videos are read with PyAV
(extra `lips-video`). A UESTC recording has no times: its samples are spread over its video's length.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.imu_windows import (
    LENGTH,
    RATE_HZ,
    Pairs,
    Windows,
    cut,
    load_windows,
    resample,
    save_windows,
    to_si,
)
from compressor.data.source import build_once
from profiles.errors import RequestError, require
from profiles.storage import cache_root, load_npz, save_npz, sha256_file

REVISION = 2
PARTS = ("train", "val", "test")
EXTRACTED_HZ = 200.0
UESTC_UNITS = np.repeat([1 / 16384, 1 / 16.4], 3)  # counts to g and deg/s
EGO4D_COLUMNS = ("accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")


@dataclass(frozen=True)
class Take:
    """One recording: its name, what was done, in which part of the published split, and its files."""

    name: str
    label: str
    part: str
    sensor: Path
    video: Path


@dataclass(frozen=True)
class ImuLayout:
    """`take(root, line)` gives name, label, sensor's and video's file of a line of a split file; `read(take)` the
    signal (6, t) at RATE_HZ in m/s2 and rad/s, and at which second of the video it begins."""

    name: str
    recognises: Callable[[Path], bool]
    take: Callable[[Path, str], tuple[str, str, Path, Path]]
    read: Callable[[Take], tuple[np.ndarray, float]]


def load_pairs(root: str | Path, frames: int = 16, side_px: int = 224) -> tuple[Path, Pairs]:
    """The pairs of a copy, and the directory in the cache that they were written to: windows of 2.56 s one after the
    other, `video` (n, frames, side_px, side_px, 3) uint8 RGB, `clip` the recording.

    Raises RequestError, naming the file, for whatever is wrong with it; MissingError without PyAV.
    """
    root = Path(root)
    layout = find_layout(root)
    takes = read_takes(root, layout)
    hashes = [[take.name, take.part, take.label, sha256_file(take.sensor), take.video.stat().st_size] for take in takes]
    key = hashlib.sha256(json.dumps([REVISION, layout.name, frames, side_px, hashes]).encode()).hexdigest()

    def fill(directory: Path) -> Mapping[str, Any]:
        credit = {"name": root.resolve().name, "version": "", "licence": "see the data set", "url": "", "note": ""}
        count = _write(directory, layout, takes, frames, side_px)
        return {"revision": REVISION, "packages": [credit], "pairs": count, "takes": len(takes)}

    path = build_once(cache_root() / "data" / f"imu-{key[:16]}", root.resolve().name, fill)
    video = np.load(path / "video.npy", mmap_mode="r")
    windows = load_windows(path)
    return path, Pairs(windows, video, windows.people, np.full(len(windows), layout.name))


def load_parts(path: Path) -> np.ndarray:
    """(n,) "train", "val" or "test": which part of the published split each pair in `load_pairs`' directory is in."""
    return load_npz(path / "about.npz")["part"]


def find_layout(root: Path) -> ImuLayout:
    """The layout that a folder is in. Raises RequestError if it is in none."""
    for layout in LAYOUTS:
        if layout.recognises(root):
            return layout
    raise RequestError(
        f"{root}: neither Ego4D (imu/*.csv), nor EgoExo4D (processed_imu/*.npy), nor UESTC-MMEA-CL (sensor/*/*.csv)"
    )


def read_takes(root: Path, layout: ImuLayout) -> list[Take]:
    """The recordings of all three split files, in order.

    Raises RequestError for a split file that is missing, a line that is not of the layout, a file that a line names and
    that is not there, and a recording in two parts.
    """
    takes: dict[str, Take] = {}
    for part in PARTS:
        file = root / f"{part}.txt"
        if not file.is_file():
            raise RequestError(f"{file}: no such split file")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                name, label, sensor, video = layout.take(root, line.strip())
            except ValueError:
                raise RequestError(f"{file}, line {number}: not a line of {layout.name}'s split files") from None
            if missing := [path for path in (sensor, video) if not path.is_file()]:
                raise RequestError(f"{file}, line {number}: no file {missing[0]}")
            if name in takes and takes[name].part != part:
                raise RequestError(f"{file}, line {number}: {name} is in {takes[name].part}.txt too")
            takes[name] = Take(name, label, part, sensor, video)
    return list(takes.values())


def _write(directory: Path, layout: ImuLayout, takes: list[Take], frames: int, side_px: int) -> int:
    read = [layout.read(take) for take in takes]
    signals = [np.ascontiguousarray(cut(signal, LENGTH)) for signal, _ in read]
    counts = [len(windows) for windows in signals]
    names = tuple(sorted({take.label for take in takes}))
    labels = np.repeat([names.index(take.label) for take in takes], counts).astype(np.int64)
    people = np.repeat([take.name for take in takes], counts)
    save_windows(directory, Windows(np.concatenate(signals), RATE_HZ, people, labels, names))
    save_npz(directory / "about.npz", {"part": np.repeat([take.part for take in takes], counts)})
    shape = (sum(counts), frames, side_px, side_px, 3)
    video = np.lib.format.open_memmap(directory / "video.npy", "w+", np.uint8, shape)
    seconds = LENGTH / RATE_HZ
    start = 0
    for take, count, (_, begin_s) in zip(takes, counts, read, strict=True):
        begin = begin_s + np.arange(count)[:, None] * seconds
        moments = (begin + np.linspace(0, seconds - 1 / RATE_HZ, frames)).reshape(-1)
        for index, picture in enumerate(pictures(take.video, moments, side_px)):
            video[start + index // frames, index % frames] = picture
        start += count
    video.flush()
    return start


def pictures(file: Path, moments_s: np.ndarray, side_px: int) -> Iterator[np.ndarray]:
    """For each of the ascending moments the frame that is shown then, (side_px, side_px, 3) RGB: its middle square. The
    last frame stands for moments after the end. Raises RequestError for a file that is no video."""
    av = require("av", "lips-video")
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            short = min(stream.width, stream.height)
            width, height = (round(side_px * side / short) for side in (stream.width, stream.height))
            index, shown = 0, None
            for frame in container.decode(stream):
                while shown is not None and index < len(moments_s) and moments_s[index] < frame.time:
                    yield shown
                    index += 1
                if index == len(moments_s):
                    return
                picture = frame.reformat(width, height, "rgb24").to_ndarray()
                top, left = (height - side_px) // 2, (width - side_px) // 2
                shown = picture[top : top + side_px, left : left + side_px]
            if shown is None:
                raise RequestError(f"{file}: no frame in it")
            for _ in range(index, len(moments_s)):
                yield shown
    except (av.error.FFmpegError, IndexError) as error:
        raise RequestError(f"{file}: not a video that can be read ({error})") from None


def duration_s(file: Path) -> float:
    """A video's length. Raises RequestError for a file that is no video."""
    av = require("av", "lips-video")
    try:
        with av.open(str(file)) as container:
            if container.duration:
                return float(container.duration) / av.time_base
    except av.error.FFmpegError as error:
        raise RequestError(f"{file}: not a video that can be read ({error})") from None
    raise RequestError(f"{file}: does not say how long it is")


def _ego4d_take(root: Path, line: str) -> tuple[str, str, Path, Path]:
    uid, scenario = line.split("\t")
    return uid, scenario.strip(), root / "imu" / f"{uid}.csv", root / "full_scale" / f"{uid}.mp4"


def _egoexo_take(root: Path, line: str) -> tuple[str, str, Path, Path]:
    name, task = line.split("\t")
    return name, task.strip(), root / "processed_imu" / f"{name}.npy", root / "videos" / f"{name}.mp4"


def _uestc_take(root: Path, line: str) -> tuple[str, str, Path, Path]:
    folder, name = Path(line.split()[0]).with_suffix("").parts[-2:]
    number, activity = folder.split("_", 1)
    int(number)
    relative = Path(folder) / name
    return str(relative), activity, root / "sensor" / f"{relative}.csv", root / "video" / f"{relative}.mp4"


def read_ego4d(take: Take) -> tuple[np.ndarray, float]:
    """Sorted by time, which is the video's; rows without a time or a value and those from before the video are left
    out, and gaps are bridged by straight lines."""
    with take.sensor.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("canonical_timestamp_ms", *EGO4D_COLUMNS)
    if not rows or (missing := [name for name in names if name not in rows[0]]):
        raise RequestError(f"{take.sensor}: {f'no column {missing[0]}' if rows else 'no rows'}")
    table = np.array([[float(row[name] or "nan") for name in names] for row in rows])
    table = table[np.isfinite(table).all(axis=1) & (table[:, 0] >= 0)]
    table = table[np.argsort(table[:, 0], kind="stable")]
    if len(table) < 2:
        raise RequestError(f"{take.sensor}: fewer than two whole rows")
    rate_hz = round(1000 / float(np.median(np.diff(table[:, 0]))))
    regular = np.arange(table[0, 0], table[-1, 0], 1000 / rate_hz)
    signal = np.stack([np.interp(regular, table[:, 0], column) for column in table[:, 1:].T])
    return resample(signal, rate_hz, RATE_HZ), float(table[0, 0]) / 1000


def read_egoexo(take: Take) -> tuple[np.ndarray, float]:
    try:
        signal = np.load(take.sensor, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RequestError(f"{take.sensor}: {error}") from None
    if signal.ndim != 2 or len(signal) != len(EGO4D_COLUMNS):
        raise RequestError(f"{take.sensor}: an array {signal.shape}, expected (6, t)")
    return resample(signal, EXTRACTED_HZ, RATE_HZ), 0.0


def read_uestc(take: Take) -> tuple[np.ndarray, float]:
    try:
        table = np.loadtxt(take.sensor, delimiter=",", skiprows=1, usecols=range(6), ndmin=2)
    except ValueError as error:
        raise RequestError(f"{take.sensor}: {' '.join(str(error).split())}") from None
    signal = to_si((table * UESTC_UNITS).T, "g", "deg/s")
    return resample(signal, round(signal.shape[1] / duration_s(take.video), 2), RATE_HZ), 0.0


LAYOUTS = (
    ImuLayout("Ego4D", lambda root: any(root.glob("imu/*.csv")), _ego4d_take, read_ego4d),
    ImuLayout("EgoExo4D", lambda root: any(root.glob("processed_imu/*.npy")), _egoexo_take, read_egoexo),
    ImuLayout("UESTC-MMEA-CL", lambda root: any(root.glob("sensor/*/*.csv")), _uestc_take, read_uestc),
)
