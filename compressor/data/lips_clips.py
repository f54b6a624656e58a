"""Clips on disk: mouth pictures, log-mel features and texts, memory-mapped.

    DIRECTORY/frames.npy   (all frames, H, W) uint8, clip after clip
    DIRECTORY/mel.npy      (all audio frames, mels) float16
    DIRECTORY/clips.json   {"language", "pinyin": {character: syllable}, "clips": [{"text", "frames", "mel",
                           "face", "part", "slot": [first, last + 1] or null}]}

`slot` is where in the text the word stands whose neighbours look alike (a GRID command's letter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import RequestError
from profiles.storage import read_json, write_json

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Clip:
    """frames (t, H, W) uint8; mel (u, mels) float; the text that is said; who says it; slot: see the module."""

    frames: np.ndarray
    mel: np.ndarray
    text: str
    face: str
    part: str
    slot: tuple[int, int] | None = None


class Clips:
    """Clips of one language, by number. frame_counts, mel_counts (n,); parts (n,) of PARTS."""

    def __init__(self, directory: Path) -> None:
        about = read_json(directory / "clips.json")
        self.language: str = about["language"]
        self.pinyin: dict[str, str] = about["pinyin"]
        clips = about["clips"]
        self.texts = [str(clip["text"]) for clip in clips]
        self.faces = [str(clip["face"]) for clip in clips]
        self.slots = [tuple(clip["slot"]) if clip["slot"] else None for clip in clips]
        self.parts = np.array([clip["part"] for clip in clips])
        self.frame_counts = np.array([clip["frames"] for clip in clips])
        self.mel_counts = np.array([clip["mel"] for clip in clips])
        self.all_frames = np.load(directory / "frames.npy", mmap_mode="r", allow_pickle=False)
        self.all_mel = np.load(directory / "mel.npy", mmap_mode="r", allow_pickle=False)
        self._frame_ends = np.cumsum(self.frame_counts)
        self._mel_ends = np.cumsum(self.mel_counts)
        if self._frame_ends[-1] != len(self.all_frames) or self._mel_ends[-1] != len(self.all_mel):
            raise RequestError(f"{directory}: frames.npy or mel.npy does not belong to clips.json; fetch it again")

    def __len__(self) -> int:
        return len(self.texts)

    def frames(self, index: int) -> np.ndarray:
        """(t, H, W) uint8, a view of the file."""
        end = self._frame_ends[index]
        return self.all_frames[end - self.frame_counts[index] : end]

    def mel(self, index: int) -> np.ndarray:
        """(u, mels) float16, a view of the file."""
        end = self._mel_ends[index]
        return self.all_mel[end - self.mel_counts[index] : end]

    def part(self, name: str) -> np.ndarray:
        """Numbers of the clips of a part."""
        return np.flatnonzero(self.parts == name)

    def romanised(self, text: str) -> str:
        """Pinyin, a space between syllables, where the characters are Chinese; the text itself elsewhere."""
        return " ".join(self.pinyin.get(character, character) for character in text) if self.pinyin else text


def write_clips(directory: Path, language: str, pinyin: Mapping[str, str], clips: Iterable[Clip]) -> dict[str, int]:
    """Write clips as they come; memory does not grow with their number. Returns how many each part has.

    Raises RequestError where there are none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    about: list[dict[str, Any]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    raw = {"frames": directory / "frames.raw", "mel": directory / "mel.raw"}
    with open(raw["frames"], "wb") as frames_file, open(raw["mel"], "wb") as mel_file:
        for clip in clips:
            shapes = {"frames": clip.frames.shape[1:], "mel": clip.mel.shape[1:]}
            frames_file.write(np.ascontiguousarray(clip.frames, np.uint8).tobytes())
            mel_file.write(np.ascontiguousarray(clip.mel, np.float16).tobytes())
            about.append(
                {
                    "text": clip.text, "face": clip.face, "part": clip.part, "frames": len(clip.frames),
                    "mel": len(clip.mel), "slot": list(clip.slot) if clip.slot else None,
                }
            )  # fmt: skip
    if not about:
        raise RequestError(f"{directory}: there are no clips to write")
    for name, dtype in (("frames", np.uint8), ("mel", np.float16)):
        total = sum(item[name] for item in about)
        flat: Any = np.memmap(raw[name], dtype, "r", shape=(total, *shapes[name]))
        np.save(directory / f"{name}.npy", flat)
        del flat
        raw[name].unlink()
    write_json(directory / "clips.json", {"language": language, "pinyin": dict(pinyin), "clips": about})
    return {part: sum(item["part"] == part for item in about) for part in PARTS}
