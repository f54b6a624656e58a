"""Encoder: a network with its own normalisation and an embedding head, for drawings and photos alike."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.models.tiny_sketch import BLOCKS, TinySketch
from profiles.errors import RequestError

# The photo network's own: what its weights were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Pictures to embeddings that are not normalised: (n, 1 or 3, px, px) -> (n, embedding_dim).

    Three channels are a photo, RGB in [0, 1]. One channel is a drawing, ink 1 on 0; a network that takes three
    sees it as black on white paper. `mean` and `std` are the network's normalisation of RGB and travel with it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        features: int,
        embedding_dim: int,
        in_channels: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(features, embedding_dim)
        self.in_channels = in_channels
        self.embedding_dim = embedding_dim
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(self.features(picture))

    def features(self, picture: Tensor) -> Tensor:
        """The network's pooled features (n, features), before the head."""
        if self.in_channels == 3:
            if picture.shape[1] == 1:
                picture = (1 - picture).expand(-1, 3, -1, -1)
            picture = (picture - self.mean) / self.std
        elif picture.shape[1] != 1:
            raise ValueError("an encoder of one input channel takes drawings, not photos")
        return self.network(picture)


def unit(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Rows of length 1: x * rsqrt(sum x^2 + epsilon), (n, dim). No division, no square root: see docs on TFLite."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + epsilon)


def build_encoder(
    name: str, embedding_dim: int, in_channels: int = 3, width: float = 1.0, drop_path: float = 0.0
) -> Encoder:
    """An encoder with fresh weights, drawn from torch's generator. Raises RequestError for an unknown name.

    name: "tiny-sketch" or "tiny-sketch-16" (these use `width`), or "timm:NAME" for any of timm's classifiers.
    """
    if name in BLOCKS:
        network: nn.Module = TinySketch(in_channels, width, name)
        # White paper becomes 0 and ink positive, as on a one-channel canvas.
        mean, std = ((1.0,) * 3, (-1.0,) * 3) if in_channels == 3 else ((), ())
        return Encoder(network, network.num_features, embedding_dim, in_channels, mean, std)  # type: ignore[arg-type]
    if name.startswith("timm:"):
        return _timm_encoder(name.removeprefix("timm:"), embedding_dim, in_channels, width, drop_path)
    ours = ", ".join(BLOCKS)
    raise RequestError(f"network {name!r}: unknown; use {ours} or timm:NAME, such as timm:mobilenetv3_small_050")


def _timm_encoder(name: str, embedding_dim: int, in_channels: int, width: float, drop_path: float) -> Encoder:
    import timm

    if name not in timm.list_models():
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"; did you mean timm:{close[0]}?" if close else "; `timm.list_models()` has them all"
        raise RequestError(f"network timm:{name}: timm {timm.__version__} has no such network{hint}")
    if width != 1.0:
        raise RequestError(f"network timm:{name}: width is for tiny-sketch; timm's networks carry theirs in the name")
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        network: Any = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **options)
    except TypeError as error:
        raise RequestError(f"network timm:{name}: {error}; drop_path must be 0 for it") from None
    normalisation = network.pretrained_cfg.get("mean", IMAGENET_MEAN), network.pretrained_cfg.get("std", IMAGENET_STD)
    features = getattr(network, "head_hidden_size", None) or network.num_features
    if isinstance(network, timm.models.vgg.VGG):
        # Layers of ImageNet's classifier, 119.5 M parameters on a 7 x 7 map. Retrieval pools the convolutions instead.
        network.pre_logits, features = nn.Identity(), network.num_features  # type: ignore[assignment]
    return Encoder(network, features, embedding_dim, in_channels, *(normalisation if in_channels == 3 else ((), ())))


def freeze_first_stages(encoder: Encoder, count: int) -> list[nn.Module]:
    """Fix the stem and the first `count` stages of a network that keeps them in `blocks`; returns the fixed parts.

    They need to be put into eval mode for each step: their batch norms keep ImageNet's statistics. 0 fixes nothing.
    """
    if count == 0:
        return []
    blocks = getattr(encoder.network, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or count > len(blocks):
        raise RequestError(f"frozen_stages {count}: this network has no such stages; use 0")
    fixed: list[nn.Module] = []
    for child in encoder.network.children():
        if child is blocks:
            break
        fixed.append(child)
    fixed += list(blocks.children())[:count]
    for part in fixed:
        part.requires_grad_(False)
    return fixed
