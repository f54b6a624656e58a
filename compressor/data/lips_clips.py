"""Clips on disk: mouth pictures, sound, log-mel features, phoneme times and texts, memory-mapped.

    DIRECTORY/frames.npy   (all frames, H, W) uint8, clip after clip
    DIRECTORY/audio.npy    (all samples,) uint8, companded (lips_audio.mu_law), 16 kHz
    DIRECTORY/mel.npy      (all audio frames, mels) float16
    DIRECTORY/clips.json   {"language", "pinyin": {character: syllable}, "clips": [{"text", "frames", "samples", "mel",
                           "face", "part", "slot": [first, last + 1] or null, "phonemes": [[start in ms, IPA], ...]}]}

`slot` is where in the text the word stands whose neighbours look alike (a GRID command's letter). `phonemes` are those
of the sound, where they are known; a picture's may be moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.lips_audio import from_mu_law, log_mel, mu_law
from profiles.errors import RequestError
from profiles.storage import read_json, write_json

PARTS = ("train", "validation", "test")
KINDS = {"frames": np.uint8, "audio": np.uint8, "mel": np.float16}  # files, and what they are of


@dataclass(frozen=True)
class Clip:
    """frames (t, H, W) uint8; audio (n,) float within -1 to 1 at 16 kHz, equally long; the text that is said; who says
    it; slot and phonemes: see the module."""

    frames: np.ndarray
    audio: np.ndarray
    text: str
    face: str
    part: str
    slot: tuple[int, int] | None = None
    phonemes: Sequence[tuple[float, str]] = ()


class Clips:
    """Clips of one language, by number. frame_counts, mel_counts (n,); parts (n,) of PARTS; phonemes of each."""

    def __init__(self, directory: Path) -> None:
        about = read_json(directory / "clips.json")
        self.language: str = about["language"]
        self.pinyin: dict[str, str] = about["pinyin"]
        clips = about["clips"]
        if any("samples" not in clip for clip in clips):
            raise RequestError(f"{directory}: clips of an older version, without their sound; make them again")
        self.texts = [str(clip["text"]) for clip in clips]
        self.faces = [str(clip["face"]) for clip in clips]
        self.slots = [tuple(clip["slot"]) if clip["slot"] else None for clip in clips]
        self.parts = np.array([clip["part"] for clip in clips])
        self.frame_counts = np.array([clip["frames"] for clip in clips])
        self.phonemes = [[(float(start), str(name)) for start, name in clip["phonemes"]] for clip in clips]
        self.mel_counts = np.array([clip["mel"] for clip in clips])
        self.sample_counts = np.array([clip["samples"] for clip in clips])
        self.all_frames, self.all_audio, self.all_mel = (
            np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in KINDS
        )
        self._frame_ends = np.cumsum(self.frame_counts)
        self._sample_ends = np.cumsum(self.sample_counts)
        self._mel_ends = np.cumsum(self.mel_counts)
        ends = self._frame_ends[-1], self._sample_ends[-1], self._mel_ends[-1]
        if ends != (len(self.all_frames), len(self.all_audio), len(self.all_mel)):
            raise RequestError(f"{directory}: its .npy files do not belong to clips.json; fetch it again")

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

    def companded(self, index: int) -> np.ndarray:
        """(n,) uint8, a view of the file."""
        end = self._sample_ends[index]
        return self.all_audio[end - self.sample_counts[index] : end]

    def audio(self, index: int) -> np.ndarray:
        """(n,) float32 within -1 to 1."""
        return from_mu_law(self.companded(index))

    def part(self, name: str) -> np.ndarray:
        """Numbers of the clips of a part."""
        return np.flatnonzero(self.parts == name)

    def romanised(self, text: str) -> str:
        """Pinyin, a space between syllables, where the characters are Chinese; the text itself elsewhere."""
        return " ".join(self.pinyin.get(character, character) for character in text) if self.pinyin else text

    def romanised_slot(self, text: str, slot: tuple[int, int]) -> tuple[int, int]:
        """Where in the romanised text the characters at `slot` stand."""
        before, own = self.romanised(text[: slot[0]]), self.romanised(text[slot[0] : slot[1]])
        first = len(before) + 1 if before and self.pinyin else len(before)
        return first, first + len(own)


def write_clips(directory: Path, language: str, pinyin: Mapping[str, str], clips: Iterable[Clip]) -> dict[str, int]:
    """Write clips as they come; memory does not grow with their number. Returns how many each part has.

    Raises RequestError where there are none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    about: list[dict[str, Any]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    raw = {name: directory / f"{name}.raw" for name in KINDS}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(path, "wb")) for name, path in raw.items()}
        for clip in clips:
            arrays = {"frames": clip.frames, "audio": mu_law(clip.audio), "mel": log_mel(clip.audio)}
            shapes = {name: array.shape[1:] for name, array in arrays.items()}
            for name, dtype in KINDS.items():
                files[name].write(np.ascontiguousarray(arrays[name], dtype).tobytes())
            about.append(
                {
                    "text": clip.text, "face": clip.face, "part": clip.part, "frames": len(clip.frames),
                    "samples": len(clip.audio), "mel": len(arrays["mel"]),
                    "slot": list(clip.slot) if clip.slot else None,
                    "phonemes": [[round(start, 1), name] for start, name in clip.phonemes],
                }
            )  # fmt: skip
    if not about:
        raise RequestError(f"{directory}: there are no clips to write")
    for (name, dtype), count in zip(KINDS.items(), ("frames", "samples", "mel"), strict=True):
        total = sum(item[count] for item in about)
        flat: Any = np.memmap(raw[name], dtype, "r", shape=(total, *shapes[name]))
        np.save(directory / f"{name}.npy", flat)
        del flat
        raw[name].unlink()
    write_json(directory / "clips.json", {"language": language, "pinyin": dict(pinyin), "clips": about})
    return {part: sum(item["part"] == part for item in about) for part in PARTS}
