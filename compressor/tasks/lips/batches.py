"""Batches of clips: of similar length, padded, varied; and texts as tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from compressor.data.lips_clips import Clips
from compressor.tasks.lips.vocabulary import BLANK, EDGE, FIRST

LENGTH_JITTER = 4.0  # frames; so that batches are not always the same clips


def similar_clips(lengths: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) places of clips whose lengths are near each other; every clip is as likely as any other."""
    order = np.argsort(lengths + rng.normal(0, LENGTH_JITTER, len(lengths)))
    start = rng.integers(len(order))
    return order[(start + np.arange(count)) % len(order)]


def pad(parts: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Arrays (t_i, ...) -> (n, longest, ...) float32, and the mask (n, longest) bool of what exists."""
    longest = max(len(part) for part in parts)
    padded = np.zeros((len(parts), longest, *parts[0].shape[1:]), np.float32)
    mask = np.zeros((len(parts), longest), bool)
    for row, part in enumerate(parts):
        padded[row, : len(part)] = part
        mask[row, : len(part)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)


def targets(texts: list[list[int]]) -> Tensor:
    """(n, longest + 1) int64: each text, EDGE, then BLANK."""
    rows = np.full((len(texts), max(map(len, texts)) + 1), BLANK, np.int64)
    for row, text in enumerate(texts):
        rows[row, : len(text)] = text
        rows[row, len(text)] = EDGE
    return torch.from_numpy(rows)


def previous(target: Tensor, vocabulary: int, share: float, rng: np.random.Generator) -> Tensor:
    """What the decoder is told was before each character: EDGE, then the text, `share` of it drawn at random.

    A reader makes mistakes and must go on after them. With the model's own, see `networks.with_own_characters`.
    """
    before = torch.cat([torch.full((len(target), 1), EDGE), target[:, :-1]], dim=1).numpy()
    wrong = rng.integers(FIRST, vocabulary, before.shape)
    change = (rng.random(before.shape) < share) & (before >= FIRST)
    return torch.from_numpy(np.where(change, wrong, before))


def varied_frames(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """(t, H, W) uint8 -> float32 in 0 to 1: mirrored, moved by a pixel or two, of other brightness and contrast."""
    pictures = frames.astype(np.float32) / 255
    if not strength:
        return pictures
    if rng.random() < 0.5:
        pictures = pictures[:, :, ::-1]
    reach = round(2 * strength)
    down, right = rng.integers(-reach, reach + 1, 2)
    rows = np.clip(np.arange(pictures.shape[1]) + down, 0, pictures.shape[1] - 1)
    columns = np.clip(np.arange(pictures.shape[2]) + right, 0, pictures.shape[2] - 1)
    pictures = pictures[:, rows][:, :, columns]
    contrast, brightness = 1 + strength * rng.uniform(-0.3, 0.3), strength * rng.uniform(-0.15, 0.15)
    return np.clip((pictures - 0.5) * contrast + 0.5 + brightness, 0, 1)


def noisy_mel(mel: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Log-mel with noise of a random, smooth spectrum at 5 to 35 dB below the speech; two in three clips, and a band of
    up to 8 mels silenced (SpecAugment, Park et al. 2019)."""
    mel = mel.astype(np.float32)
    if not strength or rng.random() < 0.33:
        return mel
    bands = mel.shape[1]
    color = np.interp(np.arange(bands), np.linspace(0, bands - 1, 5), rng.normal(0, 1.5, 5))
    level = np.log(np.exp(mel).mean()) - rng.uniform(5, 35) * np.log(10) / 10 + np.log(strength)
    noise = level + color + np.log(rng.gamma(1.0, 1.0, mel.shape) + 1e-6)
    mel = np.logaddexp(mel, noise.astype(np.float32)).astype(np.float32)
    width = rng.integers(0, 9)
    first = rng.integers(0, bands - width + 1)
    mel[:, first : first + width] = mel.mean()
    return mel


def frames_of(clips: Clips, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Padded pictures in 0 to 1 and their mask."""
    return pad([clips.frames(int(index)).astype(np.float32) / 255 for index in chosen])


def mel_of(clips: Clips, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Padded log-mel and its mask."""
    return pad([np.asarray(clips.mel(int(index)), np.float32) for index in chosen])
