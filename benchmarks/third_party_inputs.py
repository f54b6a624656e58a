"""Plausible inputs for the models of the source third-party-models, made here: nothing is downloaded for them."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np

ITEMS = 24
WORDS = [
    "edge",
    "model",
    "pencil",
    "window",
    "sketch",
    "camera",
    "signal",
    "thread",
    "bridge",
    "flower",
    "kernel",
    "purple",
    "music",
    "seven",
    "winter",
]
RATE_HZ = 16_000
FRAME, CONTEXT = 512, 64  # samples that the voice model gets anew, and of the frame before
Arrays = dict[str, np.ndarray]


def text_line(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Two words on a bright ground: (height, width, 3), 0 to 255."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(200, 255, 3)))
    font = ImageFont.load_default(size=int(rng.integers(height // 2, int(height / 1.4))))
    ink = tuple(int(v) for v in rng.integers(0, 90, 3))
    text = " ".join(rng.choice(WORDS, 2))
    ImageDraw.Draw(picture).text((int(rng.integers(2, 12)), 2), text, fill=ink, font=font)
    return np.asarray(picture)


def page(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of text at random places of a page: (size, size, 3), 0 to 255."""
    lines = np.full((size, size, 3), rng.integers(200, 255, 3), np.uint8)
    for top in range(4, size - 40, 44):
        width, height = int(rng.integers(size // 2, size - 8)), int(rng.integers(22, 36))
        left = int(rng.integers(0, size - width))
        lines[top : top + height, left : left + width] = text_line(rng, width, height)
    return lines


def _channels_first(picture: np.ndarray, mean: float | list[float], std: float | list[float]) -> np.ndarray:
    return ((picture / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1).astype(np.float32)


def lines(width: int) -> Arrays:
    """What text recognition (320 wide) and text direction (192) get: 48 high, -1 to 1."""
    rng = np.random.default_rng(0)
    return {"x": np.stack([_channels_first(text_line(rng, width, 48), 0.5, 0.5) for _ in range(ITEMS)])}


def pages() -> Arrays:
    """What text detection gets: normalised as ImageNet's pictures."""
    rng = np.random.default_rng(0)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return {"x": np.stack([_channels_first(page(rng, 224), mean, std) for _ in range(ITEMS)])}


def files() -> Arrays:
    """What magika gets of a file: its first and last 1024 bytes without the white space around, filled up with 256.
    The files are modules of Python's standard library."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:ITEMS]:
        content = np.frombuffer(path.read_bytes().strip(), np.uint8).astype(np.int32)
        row = np.full(2048, 256, np.int32)
        row[: len(content[:1024])] = content[:1024]
        row[2048 - len(content[-1024:]) :] = content[-1024:]
        found.append(row)
    return {"bytes": np.stack(found)}


def voiced_sound(seconds: float) -> np.ndarray:
    """Syllables of vowels: harmonics of a pitch that glides from 120 to 160 Hz under three formants (Peterson and
    Barney, 1952: a, i, u), with pauses of faint noise."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    sound = 0.002 * rng.standard_normal(len(time))
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240)]
    for i, start in enumerate(np.arange(0.1, seconds - 0.3, 0.4)):
        inside = (time >= start) & (time < start + 0.28)
        local = time[inside] - start
        pitch_hz = 120 + 40 * np.sin(2 * np.pi * local)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
        voice = np.zeros(len(local))
        for harmonic in range(1, 30):
            hz = harmonic * pitch_hz  # the formants stay where they are while the pitch glides
            gain = sum(1 / (1 + ((hz - formant) / 90) ** 2) for formant in vowels[i % 3])
            voice += gain / harmonic**0.5 * np.sin(harmonic * phase)
        sound[inside] += 0.2 * np.hanning(len(local)) * voice
    return sound.astype(np.float32)


def voices(model: Path) -> Arrays:
    """Frames of a sound with the recurrent state that the model itself has come to, and the sampling rate."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    sound = voiced_sound(ITEMS * 4 * FRAME / RATE_HZ)
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    inputs, states = [], []
    for start in range(0, len(sound) - FRAME + 1, FRAME):
        frame = np.concatenate([before, sound[start : start + FRAME]])
        inputs.append(frame)
        states.append(state[:, 0])
        _, state = session.run(None, {"input": frame[None], "state": state, "sr": np.array(RATE_HZ)})
        before = frame[-CONTEXT:]
    return {"input": np.stack(inputs), "state": np.stack(states), "sr": np.full(len(inputs), RATE_HZ)}


# File in the source -> its inputs, given its path.
INPUTS: dict[str, Callable[[Path], Arrays]] = {
    "text-direction": lambda model: lines(192),
    "file-type": lambda model: files(),
    "voice-activity": voices,
    "text-recognition": lambda model: lines(320),
    "text-detection": lambda model: pages(),
}
