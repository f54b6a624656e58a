"""USE-multilingual's network, token by token, against plain loops over random weights in its package's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.models.sentence_encoder import NGRAM_WIDTH, NGRAMS, TABLES, WIDTH, load_sentence_encoder

Arrays = dict[str, np.ndarray]
ROWS = 2  # of each table


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    rng = np.random.default_rng(5)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    found: Arrays = {f"q{n + 1}": rng.integers(0, 64, (ROWS, WIDTH), dtype=np.uint8) for n in range(TABLES)}
    found |= {"scale": rng.uniform(0.01, 0.1, TABLES).astype(np.float32), "lo": -rng.uniform(0, 2, TABLES).astype("f")}
    for n, _ in NGRAMS:
        found |= {f"proj{n}": weights(WIDTH, NGRAM_WIDTH), f"proj_b{n}": weights(NGRAM_WIDTH)}
        found |= {f"ln_g{n}": 1 + weights(NGRAM_WIDTH), f"ln_b{n}": weights(NGRAM_WIDTH)}
        for layer in (1, 2):
            found |= {f"w{layer}_{n}": weights(n * NGRAM_WIDTH, NGRAM_WIDTH), f"b{layer}_{n}": weights(NGRAM_WIDTH)}
    features = WIDTH + len(NGRAMS) * NGRAM_WIDTH
    found |= {"ln_g": 1 + weights(features), "ln_b": weights(features), "eps": np.array(1e-6)}
    found |= {"cnn_W": weights(features, WIDTH), "cnn_b": weights(WIDTH)}
    found |= {
        "d0": weights(WIDTH, 320),
        "d1": weights(320, 320),
        "d2": weights(320, WIDTH),
        "d3": weights(WIDTH, WIDTH),
    }
    return found | {"p1": weights(WIDTH, 320), "p3": weights(320, WIDTH)}


def normalised(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * gain + bias


def sentence(a: Arrays, ids: list[int]) -> np.ndarray:
    """One sentence's embedding, each token by itself."""
    tokens = [a[f"q{i % TABLES + 1}"][i // TABLES] * a["scale"][i % TABLES] + a["lo"][i % TABLES] for i in ids]
    project = np.concatenate([a[f"proj{n}"] for n, _ in NGRAMS], 1)
    gains, shifts, biases = (np.concatenate([a[f"{k}{n}"] for n, _ in NGRAMS]) for k in ("ln_g", "ln_b", "proj_b"))
    projected = [normalised(token @ project + biases, gains, shifts) for token in tokens]
    branches = []
    for number, (n, before) in enumerate(NGRAMS):
        rows = [own[number * NGRAM_WIDTH : (number + 1) * NGRAM_WIDTH] for own in projected]
        for layer in (1, 2):
            zero = np.zeros(NGRAM_WIDTH, np.float32)
            padded = [zero] * before + rows + [zero] * (n - 1 - before)
            windows = [np.concatenate(padded[at : at + n]) for at in range(len(rows))]
            added = [np.maximum(window @ a[f"w{layer}_{n}"] + a[f"b{layer}_{n}"], 0) for window in windows]
            rows = [own + more for own, more in zip(rows, added, strict=True)]
        branches.append(rows)
    words = [np.concatenate([token, *(rows[at] for rows in branches)]) for at, token in enumerate(tokens)]
    mean = sum(normalised(word, a["ln_g"], a["ln_b"]) @ a["cnn_W"] + a["cnn_b"] for word in words) / np.sqrt(len(ids))
    first = np.maximum(mean @ a["d0"], 0)
    second = np.maximum(mean @ a["p1"] + first @ a["d1"], 0)
    result = np.tanh(second @ a["p3"] + np.maximum(second @ a["d2"], 0) @ a["d3"])
    return result / np.linalg.norm(result)


def test_a_padded_batch_has_each_sentence_s_own_embedding(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", **arrays)  # type: ignore[arg-type]
    encoder = load_sentence_encoder(tmp_path / "weights.npz").eval()
    sentences = [[1, 20, 33, 5, 17, 2], [1, 2], [1, 9, 2]]
    ids, mask = torch.zeros(3, 7, dtype=torch.int64), torch.zeros(3, 7)
    for row, own in enumerate(sentences):
        ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
    with torch.no_grad():
        found = encoder(ids, mask).numpy()
    np.testing.assert_allclose(found, np.stack([sentence(arrays, own) for own in sentences]), atol=2e-5)
