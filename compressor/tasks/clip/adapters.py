"""Real teachers: AltCLIP, Chinese-CLIP and SigLIP through transformers, others through open_clip.

Each keeps its own preprocessing and tokenizer. Files come from a local directory or the user's hub cache, never from
the network: what is missing is said. Their towers end in the common space, so their heads are the identity.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.cache import weights_hash
from profiles.errors import MissingError, RequestError, require
from profiles.flops import count_module

MODEL_TYPES = {"altclip": ("altclip",), "chinese-clip": ("chinese_clip",), "siglip": ("siglip", "siglip2")}
TEXT_LENGTHS = {"siglip": 64}  # SigLIP was trained with texts padded to their full length
EXAMPLE = ["a text"]
SAMPLE = 200  # texts whose mean length is counted


class Adapter:
    """A CLIP whose sides are `image` (pixels -> embeddings) and `text` (feeds -> embeddings)."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Callable[[np.ndarray], Tensor],
        tokenize: Callable[[Sequence[str]], dict[str, Tensor]],
        image: Callable[[Tensor], Tensor],
        text: Callable[[dict[str, Tensor]], Tensor],
    ) -> None:
        self.name, self.model = name, model.eval().requires_grad_(False)
        self._preprocess, self._tokenize, self._image, self._text = preprocess, tokenize, image, text
        self.image_head: nn.Module = nn.Identity()
        self.text_head: nn.Module = nn.Identity()
        device = torch.device("cpu")
        self.embedding_dim = self.text_features(EXAMPLE, device).shape[1]
        self.image_width = self.text_width = self.embedding_dim

    @torch.no_grad()
    def image_features(self, pictures: np.ndarray, device: torch.device) -> np.ndarray:
        self.model.to(device)
        return self._image(self._preprocess(pictures).to(device)).float().cpu().numpy()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str], device: torch.device) -> np.ndarray:
        self.model.to(device)
        feeds = {name: value.to(device) for name, value in self._tokenize(texts).items()}
        return self._text(feeds).float().cpu().numpy()

    def key(self) -> dict[str, Any]:
        return {"name": self.name, "weights": weights_hash(self.model)}

    def costs(self, texts: Sequence[str]) -> dict[str, float]:
        pixels = self._preprocess(np.zeros((1, 64, 64, 3), np.uint8))
        lengths = [self._tokenize([text])["input_ids"].shape[1] for text in texts[:SAMPLE]]
        whole = self._tokenize([max(texts[:SAMPLE], key=len)])
        feeds = {name: value[:, : round(float(np.mean(lengths)))] for name, value in whole.items()}
        image = count_module(_Side(self.model, self._image), pixels)
        text = count_module(_TextSide(self.model, self._text, list(feeds)), tuple(feeds.values()))
        return {
            "image_macs": image.macs,
            "text_macs": text.macs,
            "parameters": float(sum(parameter.numel() for parameter in self.model.parameters())),
        }


class _Side(nn.Module):
    def __init__(self, model: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, pixels: Tensor) -> Tensor:
        return self.call(pixels)


class _TextSide(nn.Module):
    def __init__(self, model: nn.Module, call: Callable[[dict[str, Tensor]], Tensor], names: list[str]) -> None:
        super().__init__()
        self.model, self.call, self.names = model, call, names

    def forward(self, *values: Tensor) -> Tensor:
        return self.call(dict(zip(self.names, values, strict=True)))


def load_adapter(kind: str, path: str) -> Adapter:
    """The teacher of that kind. Raises MissingError if its files or library are not here, RequestError if they are
    another kind's."""
    return _open_clip(path) if kind == "open-clip" else _transformers(kind, path)


def _transformers(kind: str, path: str) -> Adapter:
    library: Any = require("transformers", "clip")
    with _reading(kind, path):
        options: dict[str, Any] = {"local_files_only": True}
        config = library.AutoConfig.from_pretrained(path, **options)
        if config.model_type not in MODEL_TYPES[kind]:
            raise RequestError(f"teacher.path {path}: a {config.model_type} model, not a {kind} one")
        model = library.AutoModel.from_pretrained(path, use_safetensors=True, **options)
        images = library.AutoImageProcessor.from_pretrained(path, **options)
        tokenizer = library.AutoTokenizer.from_pretrained(path, **options)
    length = TEXT_LENGTHS.get(kind)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": length} if length else {"padding": True}

    def tokenize(texts: Sequence[str]) -> dict[str, Tensor]:
        return dict(tokenizer(list(texts), truncation=True, return_tensors="pt", **padding))

    return Adapter(
        f"{kind} {Path(path).name}",
        model,
        lambda pictures: images(images=list(pictures), return_tensors="pt")["pixel_values"],
        tokenize,
        lambda pixels: _embedding(model.get_image_features(pixel_values=pixels)),
        lambda feeds: _embedding(model.get_text_features(**feeds)),
    )


def _embedding(output: Any) -> Tensor:
    """transformers 5 gives an output with the projected embedding as its pooled one, earlier versions the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _open_clip(path: str) -> Adapter:
    """path: "MODEL:WEIGHTS_FILE", or a directory with open_clip_config.json and its weights."""
    library: Any = require("open_clip", "clip")
    image_module: Any = require("PIL.Image", "report")
    name, _, weights = path.partition(":")
    if Path(path).is_dir():
        name, weights = f"local-dir:{path}", ""
    elif not weights or not Path(weights).is_file():
        raise MissingError(f"teacher.path {path}: give MODEL:WEIGHTS_FILE, or a directory with open_clip_config.json")
    with _reading("open-clip", path):
        model, _, transform = library.create_model_and_transforms(name, pretrained=weights or None)
        tokenizer = library.get_tokenizer(name)
    return Adapter(
        f"open-clip {Path(path).name}",
        model,
        lambda pictures: torch.stack([transform(image_module.fromarray(picture)) for picture in pictures]),
        lambda texts: {"input_ids": tokenizer(list(texts))},
        lambda pixels: model.encode_image(pixels),
        lambda feeds: model.encode_text(feeds["input_ids"]),
    )


@contextmanager
def _reading(kind: str, path: str) -> Iterator[None]:
    """Off the network; what the libraries raise about files becomes one line."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingError(
            f"teacher.path {path}: {kind}'s files could not be read from there or from the hub cache ({reason})"
        ) from None
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
