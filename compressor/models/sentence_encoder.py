"""USE-multilingual v3 as a torch module: a deep averaging network over convolutions of token n-grams.

Source: Yang et al., Multilingual Universal Sentence Encoder for Semantic Retrieval (ACL 2020). The weights come from
the data source "use-multilingual", whose package documents the network that they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from profiles.errors import require

TABLES = 17  # the vocabulary is dealt over as many tables, each with a scale of its own
WIDTH = 512
NGRAM_WIDTH = 256
NGRAMS = ((2, 0), (3, 1), (5, 2))  # tokens in a window, and how many of them stand before the window's own token
BOS, EOS = 1, 2


class SentenceEncoder(nn.Module):
    """Token ids (n, length) int64 and mask (n, length) float, 1 on tokens, to embeddings (n, 512) of length 1."""

    def __init__(self, pieces: int = TABLES * 7530, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.table = nn.Embedding(pieces, WIDTH)
        self.project = nn.Linear(WIDTH, NGRAM_WIDTH * len(NGRAMS))
        self.project_norm = nn.LayerNorm(NGRAM_WIDTH * len(NGRAMS), eps=epsilon)
        self.first = nn.ModuleList(nn.Conv1d(NGRAM_WIDTH, NGRAM_WIDTH, n) for n, _ in NGRAMS)
        self.second = nn.ModuleList(nn.Conv1d(NGRAM_WIDTH, NGRAM_WIDTH, n) for n, _ in NGRAMS)
        features = WIDTH + NGRAM_WIDTH * len(NGRAMS)
        self.norm = nn.LayerNorm(features, eps=epsilon)
        self.output = nn.Linear(features, WIDTH)
        self.dense = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in ((WIDTH, 320), (320, 320), (320, WIDTH), (WIDTH, WIDTH))
        )
        self.skip = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in ((WIDTH, 320), (320, WIDTH)))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.table(ids)
        keep = mask[:, None]
        projected = self.project_norm(self.project(tokens)).transpose(1, 2) * keep
        branches = [tokens.transpose(1, 2)]
        for number, own in enumerate(projected.split(NGRAM_WIDTH, dim=1)):
            hidden = (own + self._window(self.first[number], own, number)) * keep
            branches.append(hidden + self._window(self.second[number], hidden, number))
        features = self.norm(torch.cat(branches, 1).transpose(1, 2)) * mask[..., None]
        length = mask.sum(1, keepdim=True)
        mean = (functional.linear(features.sum(1), self.output.weight) + length * self.output.bias) / length.sqrt()
        first = functional.relu(self.dense[0](mean))
        second = functional.relu(self.skip[0](mean) + self.dense[1](first))
        third = functional.relu(self.dense[2](second))
        return functional.normalize(torch.tanh(self.skip[1](second) + self.dense[3](third)), dim=-1)

    @staticmethod
    def _window(layer: nn.Module, x: Tensor, number: int) -> Tensor:
        """What a window of n tokens gives at each token; beyond the sentence there are zeros."""
        count, before = NGRAMS[number]
        return functional.relu(layer(functional.pad(x, (before, count - 1 - before))))


def load_sentence_encoder(path: Path) -> SentenceEncoder:
    """The module with the weights of the data source's .npz, its 8-bit table as float32."""
    with np.load(path, allow_pickle=False) as z:
        arrays = {name: z[name] for name in z.files}
    tables = [arrays[f"q{number + 1}"] for number in range(TABLES)]
    encoder = SentenceEncoder(sum(map(len, tables)), float(arrays["eps"]))
    state: dict[str, np.ndarray] = {}
    table = np.empty((sum(map(len, tables)), WIDTH), np.float32)
    for number, codes in enumerate(tables):
        table[number::TABLES] = codes * arrays["scale"][number] + arrays["lo"][number]
    state["table.weight"] = table
    orders = [n for n, _ in NGRAMS]
    state["project.weight"] = np.concatenate([arrays[f"proj{n}"] for n in orders], axis=1).T
    state["project.bias"] = np.concatenate([arrays[f"proj_b{n}"] for n in orders])
    state["project_norm.weight"] = np.concatenate([arrays[f"ln_g{n}"] for n in orders])
    state["project_norm.bias"] = np.concatenate([arrays[f"ln_b{n}"] for n in orders])
    for number, n in enumerate(orders):
        for layer, name in (("first", "1"), ("second", "2")):
            kernel = arrays[f"w{name}_{n}"].reshape(n, NGRAM_WIDTH, NGRAM_WIDTH)  # token in the window, in, out
            state[f"{layer}.{number}.weight"] = kernel.transpose(2, 1, 0)
            state[f"{layer}.{number}.bias"] = arrays[f"b{name}_{n}"]
    state["norm.weight"], state["norm.bias"] = arrays["ln_g"], arrays["ln_b"]
    state["output.weight"], state["output.bias"] = arrays["cnn_W"].T, arrays["cnn_b"]
    state |= {f"dense.{number}.weight": arrays[f"d{number}"].T for number in range(4)}
    state |= {"skip.0.weight": arrays["p1"].T, "skip.1.weight": arrays["p3"].T}
    encoder.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in state.items()}
    )
    return encoder


class SentencePieces:
    """Text to the ids and mask that the encoder takes, with SentencePiece's own library."""

    def __init__(self, path: Path) -> None:
        self._processor = require("sentencepiece", "clip").SentencePieceProcessor(model_proto=path.read_bytes())

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        rows = [[BOS, *(self._processor.encode(text) or [0]), EOS] for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        lengths = torch.tensor([len(row) for row in rows])
        return {"ids": ids, "mask": (torch.arange(ids.shape[1])[None] < lengths[:, None]).float()}
