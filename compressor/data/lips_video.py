"""One's own talking faces: the folders of LRS2 and of CMLR, read into clips.

    LRS2    train.txt, val.txt, test.txt: lines SPEAKER/NAME, what follows a space is ignored
            mvlrs_v1/main/SPEAKER/NAME.mp4 and .txt, the text after "Text:" in its first line
    CMLR    train.csv, val.csv, test.csv: lines SPEAKER/DATE/NAME, a .mp4 behind it or not
            video/SPEAKER/DATE/NAME.mp4, text/SPEAKER/DATE/NAME.txt, the sentence in its first line
    both    landmarks/....npy beside them, named as the video is below its folder: (frames, 68, 2) pixels, x and y, in
            the order of iBUG's 68 points (dlib, face-alignment), of which 48 to 67 are the mouth

Pictures are the mouth, upright as filmed, grey, as wide as the clip's median mouth and half as much again on each side.
Both sets have 25 pictures a second; sound is brought to 16 kHz. Both are given out for research by their owners.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.lips_audio import RATE_HZ
from compressor.data.lips_clips import Clip, write_clips
from compressor.data.source import build_once, read_manifest
from compressor.extras import needs
from profiles.errors import RequestError
from profiles.storage import cache_root

REVISION = 2
FRAMES_PER_SECOND = 25
MOUTH = slice(48, 68)
WIDER = 2.0  # the crop's width, in mouths


@dataclass(frozen=True)
class VideoLayout:
    """How a data set names its files; `lists`: of its parts."""

    name: str
    language: str
    lists: Mapping[str, str]
    videos: str
    texts: str
    text_prefix: str


LRS2 = VideoLayout(
    name="LRS2",
    language="en",
    lists={"train": "train.txt", "validation": "val.txt", "test": "test.txt"},
    videos="mvlrs_v1/main",
    texts="mvlrs_v1/main",
    text_prefix="Text:",
)
CMLR = VideoLayout(
    name="CMLR",
    language="cmn",
    lists={"train": "train.csv", "validation": "val.csv", "test": "test.csv"},
    videos="video",
    texts="text",
    text_prefix="",
)


def find_video_layout(root: Path) -> VideoLayout:
    """The layout whose lists and videos are there. Raises RequestError if it is neither's."""
    for layout in (LRS2, CMLR):
        if (root / layout.videos).is_dir() and all((root / name).is_file() for name in layout.lists.values()):
            return layout
    raise RequestError(
        f"{root}: neither LRS2 (mvlrs_v1/main, train.txt, val.txt, test.txt) nor CMLR (video, text, train.csv, ...)"
    )


def prepare_videos(root: Path, height_px: int, width_px: int) -> tuple[Path, dict[str, Any]]:
    """The clips' directory in the cache, and what a bundle's lineage says of them; read once while nothing changes.

    Raises RequestError, naming the file, for whatever is wrong with it; MissingError without the extra lips-video.
    """
    layout = find_video_layout(root)
    names = {part: _names(root / name) for part, name in layout.lists.items()}
    files = [path for own in names.values() for name in own for path in _files(root, layout, name)]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise RequestError(f"{missing[0]}: no such file, but a list of {layout.name} names it ({len(missing)} missing)")
    # Of large files name, size and time are looked at: hashing a hundred gigabytes at every start would be a burden.
    seen = [(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(json.dumps([REVISION, height_px, width_px, names, seen]).encode()).hexdigest()

    def fill(directory: Path) -> Mapping[str, Any]:
        clips = (
            read_clip(root, layout, name, part, height_px, width_px) for part, own in names.items() for name in own
        )
        return {"revision": REVISION, **write_clips(directory, layout.language, {}, clips)}

    path = build_once(cache_root() / "data" / f"videos-{key[:16]}", layout.name, fill)
    about = {"name": layout.name, "sha256": read_manifest(path)["hash"]}
    return path, {"data": about, "credits": [{"name": layout.name, "note": "the user's own copy"}]}


def _names(path: Path) -> list[str]:
    """The clips of a list, without the videos' ending."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return [line.replace(",", " ").split()[0].removesuffix(".mp4") for line in lines if line]


def _files(root: Path, layout: VideoLayout, name: str) -> tuple[Path, Path, Path]:
    """Video, text, landmarks. Names have dots in them, so endings are put behind them."""
    return (
        root / layout.videos / f"{name}.mp4",
        root / layout.texts / f"{name}.txt",
        root / "landmarks" / f"{name}.npy",
    )


def read_clip(root: Path, layout: VideoLayout, name: str, part: str, height_px: int, width_px: int) -> Clip:
    """One clip of a data set; its face is the first folder of its name."""
    video, text, landmarks = _files(root, layout, name)
    pictures, audio = read_video(video)
    frames = crop_mouths(pictures, read_landmarks(landmarks, len(pictures)), height_px, width_px)
    whole = np.zeros(len(frames) * RATE_HZ // FRAMES_PER_SECOND, np.float32)
    whole[: min(len(audio), len(whole))] = audio[: len(whole)]
    lines = text.read_text(encoding="utf-8-sig").splitlines() or [""]
    sentence = lines[0].removeprefix(layout.text_prefix).strip()
    sentence = "".join(sentence.split()) if layout.language == "cmn" else " ".join(sentence.lower().split())
    if not sentence:
        raise RequestError(f"{text}: its first line has no text")
    return Clip(frames, whole, sentence, name.split("/")[0], part)


def read_video(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures (t, H, W) uint8, and sound (n,) float32 at RATE_HZ within -1 to 1.

    Raises RequestError for a file that cannot be decoded, has no sound, or not 25 pictures a second.
    """
    with needs("lips-video"):
        import av
    try:
        with av.open(str(path)) as container:
            if not container.streams.video or not container.streams.audio:
                raise RequestError(f"{path}: has no {'sound' if container.streams.video else 'pictures'}")
            rate = container.streams.video[0].average_rate
            if rate is None or abs(float(rate) - FRAMES_PER_SECOND) > 0.1:
                raise RequestError(f"{path}: {float(rate or 0):g} pictures a second; convert it to {FRAMES_PER_SECOND}")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
            pictures, sound = [], []
            for frame in container.decode(video=0, audio=0):
                if isinstance(frame, av.VideoFrame):
                    pictures.append(frame.to_ndarray(format="gray"))
                elif isinstance(frame, av.AudioFrame):
                    sound += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            sound += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except av.FFmpegError as error:
        raise RequestError(f"{path}: cannot be decoded ({error})") from None
    if not pictures or not sound:
        raise RequestError(f"{path}: has no {'sound' if pictures else 'pictures'}")
    return np.stack(pictures), np.concatenate(sound).astype(np.float32)


def read_landmarks(path: Path, frames: int) -> np.ndarray:
    """(frames, 68, 2) float32. Raises RequestError if the file is none or of another length."""
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError):
        raise RequestError(f"{path}: not a .npy file of numbers") from None
    if points.shape != (frames, 68, 2):
        raise RequestError(f"{path}: has shape {points.shape}, the video needs ({frames}, 68, 2)")
    return points.astype(np.float32)


def crop_mouths(pictures: np.ndarray, points: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """(t, H, W) uint8 -> (t, height_px, width_px) uint8: a window around the mouth's middle, of one size in the clip.

    The middle is smoothed over five pictures, so that a detector's tremor does not become a movement. Outside of the
    picture its edge is repeated.
    """
    from PIL import Image

    mouth = points[:, MOUTH]
    width = WIDER * float(np.median(np.ptp(mouth[..., 0], axis=1)))
    height = width * height_px / width_px
    middles = np.pad(mouth.mean(1), ((2, 2), (0, 0)), mode="edge")
    middles = np.stack([np.convolve(axis, np.ones(5) / 5, "valid") for axis in middles.T], axis=1)
    margin = int(np.ceil(max(width, height)))
    crops = []
    for picture, (x, y) in zip(pictures, middles, strict=True):
        padded = Image.fromarray(np.pad(picture, margin, mode="edge"))
        x, y = np.clip((x, y), 0, (picture.shape[1], picture.shape[0])) + margin
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        crops.append(np.asarray(padded.resize((width_px, height_px), Image.Resampling.BILINEAR, box=box)))
    return np.stack(crops)
