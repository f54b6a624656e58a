"""Teachers: what they say about pictures and texts. The assembled one here, real ones in adapters.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from compressor.cache import weights_hash
from compressor.models.encoder import build_encoder
from compressor.models.sentence_encoder import SentencePieces, load_sentence_encoder
from compressor.models.weights import load_weights
from compressor.tasks.clip.config import ClipConfig
from compressor.tasks.clip.pictures import to_input
from profiles.errors import RequestError
from profiles.flops import count_module

NETWORK, WEIGHTS = "timm:tf_efficientnet_lite0", "efficientnet-lite0"
ASSEMBLED = "assembled: EfficientNet-Lite0 (ImageNet) + USE-multilingual v3, trained heads"


class Teacher(Protocol):
    """Frozen backbones, and heads from their features to one space; real teachers' heads are the identity."""

    name: str
    image_head: nn.Module
    text_head: nn.Module
    embedding_dim: int
    image_width: int  # of the features
    text_width: int

    def image_features(self, pictures: np.ndarray, device: torch.device) -> np.ndarray:
        """(n, H, W, 3) uint8 -> (n, image_width) float32."""
        ...

    def text_features(self, texts: Sequence[str], device: torch.device) -> np.ndarray:
        """Texts -> (n, text_width) float32."""
        ...

    def key(self) -> dict[str, Any]:
        """Everything that can change its features, for caches."""
        ...

    def costs(self, texts: Sequence[str]) -> dict[str, float]:
        """ "image_macs", "text_macs" of one picture and of a text as long as these are on average, "parameters" of
        both sides.
        """
        ...


class Head(nn.Sequential):
    """Features to the common space, features normalised first so that their scale does not matter."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__(nn.LayerNorm(width, elementwise_affine=False), nn.Dropout(dropout), nn.Linear(width, dim))


class AssembledTeacher:
    """EfficientNet-Lite0 with ImageNet's weights, USE-multilingual v3 with its own, and a linear head on each."""

    name = ASSEMBLED

    def __init__(self, config: ClipConfig) -> None:
        from compressor.data import fetch

        settings = config.teacher
        self.px = settings.picture_px
        self.embedding_dim = settings.embedding_dim
        self.encoder = build_encoder(NETWORK, settings.embedding_dim)
        load_weights(self.encoder, NETWORK, WEIGHTS)
        self.encoder = self.encoder.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._folder = fetch("use-multilingual")
        self._text: tuple[nn.Module, SentencePieces] | None = None  # read when a text is not in the cache
        self.image_width, self.text_width = int(self.encoder.head.in_features), 512
        self.image_head: nn.Module = Head(self.image_width, settings.embedding_dim, settings.dropout)
        self.text_head: nn.Module = Head(self.text_width, settings.embedding_dim, settings.dropout / 2)
        if settings.heads is not None:
            load_module(nn.ModuleDict({"image": self.image_head, "text": self.text_head}), settings.heads)

    @torch.no_grad()
    def image_features(self, pictures: np.ndarray, device: torch.device) -> np.ndarray:
        batch = torch.from_numpy(to_input(pictures, self.px)).to(device, memory_format=torch.channels_last)
        return self.encoder.to(device).features(batch).float().cpu().numpy()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str], device: torch.device) -> np.ndarray:
        encoder, pieces = self._text_side()
        feeds = {name: value.to(device) for name, value in pieces(texts).items()}
        return encoder.to(device)(**feeds).float().cpu().numpy()

    def key(self) -> dict[str, Any]:
        return {"image": weights_hash(self.encoder.network), "px": self.px, "text": self._folder.name}

    def costs(self, texts: Sequence[str]) -> dict[str, float]:
        encoder, pieces = self._text_side()
        tokens = round(float(pieces(texts)["mask"].sum(1).mean()))
        image = count_module(self.encoder, torch.zeros(1, 3, self.px, self.px))
        text = count_module(encoder, (torch.zeros(1, tokens, dtype=torch.int64), torch.ones(1, tokens)))
        head = self.text_width * self.embedding_dim
        return {
            "image_macs": image.macs,
            "text_macs": text.macs + head,
            "parameters": float(image.parameters + text.parameters + head + self.embedding_dim),
        }

    def head_weights(self) -> dict[str, Tensor]:
        """What `teacher.heads` reads."""
        state = nn.ModuleDict({"image": self.image_head, "text": self.text_head}).state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def _text_side(self) -> tuple[nn.Module, SentencePieces]:
        if self._text is None:
            encoder = load_sentence_encoder(self._folder / "use-multilingual.npz").eval().requires_grad_(False)
            self._text = encoder, SentencePieces(self._folder / "use-multilingual.model")
        return self._text


def load_module(module: nn.Module, path: str) -> None:
    """Give a module the weights of a .safetensors file. Raises RequestError if there are none or they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RequestError(f"weights {path}: not readable, or of another network ({reason})") from None


def build_teacher(config: ClipConfig) -> Teacher:
    """The recipe's teacher. Raises MissingError or RequestError where its files cannot be had."""
    if config.teacher.kind == "assembled":
        return AssembledTeacher(config)
    from compressor.tasks.clip.adapters import load_adapter

    assert config.teacher.path is not None  # the recipe's schema says so
    return load_adapter(config.teacher.kind, config.teacher.path)


def in_chunks(compute: Callable[[Any], np.ndarray], rows: Sequence[Any] | np.ndarray, size: int = 64) -> np.ndarray:
    """`compute` of rows, `size` at a time."""
    parts = [compute(rows[start : start + size]) for start in range(0, len(rows), size)]
    return np.concatenate(parts)


@torch.no_grad()
def through_head(head: nn.Module, features: np.ndarray) -> np.ndarray:
    """(n, width) features -> (n, dim) embeddings of length 1, on the head's device. The head's mode stays."""
    training = head.training
    head.eval()
    device = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))
    rows: Tensor = head(torch.from_numpy(np.array(features, np.float32)).to(device))
    head.train(training)
    return torch.nn.functional.normalize(rows, dim=-1).cpu().numpy()
