"""Speech at 16 kHz: log-mel features, and a byte per sample to keep it. numpy; resampling is scipy's."""

from __future__ import annotations

import functools
from math import gcd

import numpy as np

from compressor.extras import needs

RATE_HZ = 16000
WINDOW, HOP, FFT = 400, 160, 512  # 25 ms every 10 ms
MELS = 40
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
FLOOR = 1e-8  # of the power of full scale: -80 dB
MU = 255.0


def resample(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """(n,) float32 at `rate_hz` -> at RATE_HZ, by a polyphase filter, which keeps what is above 8 kHz from folding."""
    if rate_hz == RATE_HZ:
        return audio.astype(np.float32)
    with needs("lips-data"):
        from scipy.signal import resample_poly
    common = gcd(RATE_HZ, rate_hz)
    return resample_poly(audio.astype(np.float64), RATE_HZ // common, rate_hz // common).astype(np.float32)


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """O'Shaughnessy 1987: 2595 log10(1 + f / 700)."""
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


@functools.cache
def mel_filters() -> np.ndarray:
    """Triangles, equally wide in mel, (FFT // 2 + 1, MELS)."""
    mels = np.linspace(hz_to_mel(np.array(LOWEST_HZ)), hz_to_mel(np.array(HIGHEST_HZ)), MELS + 2)
    bins = hz_to_mel(np.fft.rfftfreq(FFT, 1 / RATE_HZ))[:, None]
    rising = (bins - mels[:-2]) / (mels[1:-1] - mels[:-2])
    falling = (mels[2:] - bins) / (mels[2:] - mels[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


def log_mel(audio: np.ndarray) -> np.ndarray:
    """(n,) float32 within -1 to 1 at RATE_HZ -> (n // HOP, MELS) natural logarithms of mel powers, float32.

    Row i is centred on sample i HOP; the ends are padded with silence.
    """
    count = len(audio) // HOP
    padded = np.pad(audio, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: count * HOP : HOP]
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW), FFT)
    power = (spectrum.real**2 + spectrum.imag**2) / np.hanning(WINDOW).sum() ** 2
    return np.log(power @ mel_filters() + FLOOR).astype(np.float32)


def mu_law(audio: np.ndarray) -> np.ndarray:
    """(n,) within -1 to 1 -> (n,) uint8, companded (ITU-T G.711, the continuous mu-law): some 38 dB of signal to noise,
    loud or soft."""
    level = np.sign(audio) * np.log1p(MU * np.clip(np.abs(audio), 0, 1)) / np.log1p(MU)
    return ((level + 1) / 2 * 255 + 0.5).astype(np.uint8)


def from_mu_law(codes: np.ndarray) -> np.ndarray:
    """The way back: (n,) uint8 -> (n,) float32 within -1 to 1."""
    level = np.asarray(codes, np.float32) / 255 * 2 - 1
    return (np.sign(level) * np.expm1(np.abs(level) * np.log1p(MU)) / MU).astype(np.float32)
