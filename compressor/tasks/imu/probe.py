"""Logistic regression on features that do not change: the linear probe, on a student's or on hand-made ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CHUNK = 512


@dataclass(frozen=True)
class Probe:
    """Scores = (features - mean) / std weight^T + bias; weight (classes, features)."""

    mean: np.ndarray
    std: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (n, d) -> scores (n, classes)."""
        return (features - self.mean) / self.std @ self.weight.T + self.bias

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias on features as they come, without mean and std."""
        weight = self.weight / self.std
        return weight, self.bias - weight @ self.mean


def fit_probe(features: np.ndarray, labels: np.ndarray, classes: int, penalty: float, iterations: int = 100) -> Probe:
    """Multinomial logistic regression on standardised features: mean cross-entropy + penalty / 2 |weight|^2, L-BFGS.

    features (n, d) float, labels (n,) integers. Deterministic: starts from zero. float64 within.
    """
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, 1.0)  # a constant feature says nothing
    x = torch.from_numpy(((features - mean) / std).astype(np.float64))
    y = torch.from_numpy(labels.astype(np.int64))
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(x @ weight.T + bias, y) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(objective)
    return Probe(mean, std, weight.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32))


@torch.no_grad()
def embed(encoder: nn.Module, signals: np.ndarray, device: torch.device) -> np.ndarray:
    """Scaled signals (n, 6, length) -> features (n, d) float32; the module is left in the mode that it was in."""
    training = encoder.training
    encoder.to(device).eval()
    parts = [
        encoder(torch.from_numpy(np.ascontiguousarray(signals[start : start + CHUNK])).to(device)).float().cpu().numpy()
        for start in range(0, len(signals), CHUNK)
    ]
    encoder.train(training)
    return np.concatenate(parts)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest score is the label's."""
    return float((scores.argmax(1) == labels).mean())


def simple_statistics(signals: np.ndarray) -> np.ndarray:
    """(n, 6, length) -> (n, 12): mean and standard deviation of every channel."""
    return np.concatenate([signals.mean(-1), signals.std(-1)], 1)


def hand_features(signals: np.ndarray, rate_hz: float) -> np.ndarray:
    """(n, 6, length) -> (n, 54): nine numbers of every channel.

    Mean, standard deviation, minimum, maximum, mean absolute difference of neighbours, and the log power in four bands
    (to 1, 3, 6 and above 6 Hz, the mean taken out): what activity recognition used before it learned features.
    """
    mean = signals.mean(-1, keepdims=True)
    power = np.abs(np.fft.rfft(signals - mean, axis=-1)) ** 2 / signals.shape[-1]
    frequency_hz = np.fft.rfftfreq(signals.shape[-1], 1 / rate_hz)
    edges = (0.0, 1.0, 3.0, 6.0, np.inf)
    bands = [
        np.log(power[..., (frequency_hz > low) & (frequency_hz <= high)].sum(-1) + 1e-6)
        for low, high in itertools.pairwise(edges)
    ]
    parts = [mean[..., 0], signals.std(-1), signals.min(-1), signals.max(-1), np.abs(np.diff(signals)).mean(-1), *bands]
    return np.concatenate(parts, 1).astype(np.float32)
