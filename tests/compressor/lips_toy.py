"""A handful of clips of two words, each a mouth movement and a tone, for tests of the lips task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from compressor.data.lips_audio import RATE_HZ
from compressor.data.lips_clips import Clip, write_clips
from compressor.data.lips_mouth import FRAMES_PER_SECOND, Face, movements, render

WORDS = {"ab": ("a", 400.0), "um": ("u", 900.0)}  # the vowel that is seen, the tone in Hz that is heard
MS = 200.0  # of a word


def say(words: list[str], face: Face, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """frames and audio of these words, 0.2 s each, with 0.1 s of rest around them."""
    frames = int((200 + MS * len(words)) / 1000 * FRAMES_PER_SECOND)
    phonemes = [(100 + MS * place, WORDS[word][0]) for place, word in enumerate(words)]
    time = np.arange(frames * RATE_HZ // FRAMES_PER_SECOND) / RATE_HZ
    audio = np.zeros(len(time), np.float32)
    for place, word in enumerate(words):
        begin = 0.1 + MS / 1000 * place
        here = (time >= begin + 0.02) & (time < begin + MS / 1000 - 0.02)
        audio[here] = 0.3 * np.sin(2 * np.pi * WORDS[word][1] * time[here])
    return render(face, movements(phonemes, 100 + MS * len(words), frames, rng), rng), audio


def clips(counts: dict[str, int]) -> Iterator[Clip]:
    for part, count in counts.items():
        for number in range(count):
            rng = np.random.default_rng([number, *part.encode()])
            words = list(rng.choice(list(WORDS), rng.integers(2, 5)))
            frames, audio = say(words, Face.draw(rng), rng)
            yield Clip(frames, audio, " ".join(words), f"{part}-{number}", part, (0, 2))


def write_toy(directory: Path) -> Path:
    """40 clips to train on, 6 and 6 to validate and test with."""
    write_clips(directory, "en", {}, clips({"train": 40, "validation": 6, "test": 6}))
    return directory
