"""The two towers of the student."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compressor.models.encoder import Encoder, build_encoder
from compressor.prune import prune
from profiles.errors import RequestError

MASKED = 12.0  # taken from the attention's scores at padding: nothing is left of it, and int8 keeps its steps


class Block(nn.Module):
    """A transformer block, normalised first: self-attention over tokens, then an MLP, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x (n, length, width); hidden (n, 1, 1, length): what is taken from the scores."""
        n, length, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-1, -2) * (width // self.heads) ** -0.5 - hidden
        mixed = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(n, length, width)
        x = x + self.out(mixed)
        return x + self.mlp(self.mlp_norm(x))


class TextTower(nn.Module):
    """ids (n, length) int32 and mask (n, length) float32 -> embeddings (n, dim), not normalised. Fewer columns than
    `length`, where no row needs them, give the same but for what attention leaves to padding (MASKED).

    Wide token vectors, which cost memory and no multiplications, are averaged; a narrow transformer over them adds what
    order and neighbours mean. A hidden layer behind the averages costs little, once per text and not per token, and a
    teacher that averages has such layers too (USE: four).
    """

    def __init__(
        self, vocabulary: int, length: int, token_width: int, width: int, hidden: int, layers: int, heads: int, dim: int
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary + 1, token_width)  # the last is padding
        nn.init.normal_(self.tokens.weight, std=0.5)
        self.narrow = nn.Linear(token_width, width)
        self.position = nn.Parameter(torch.zeros(1, length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.hidden = nn.Linear(token_width + width, hidden)
        self.head = nn.Linear(token_width + width + hidden, dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.features(ids, mask))

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, token_width + width + hidden): means over the tokens of their vectors and of the transformer's, and what
        the hidden layer makes of these."""
        tokens = self.tokens(ids)
        x = self.narrow(tokens) + self.position[:, : ids.shape[1]]
        hidden = (1 - mask)[:, None, None] * MASKED
        for block in self.blocks:
            x = block(x, hidden)
        share = (mask / mask.sum(1, keepdim=True).clamp_min(1.0))[:, None]  # (n, 1, length)
        means = (share @ torch.cat([tokens, x], -1)).squeeze(1)
        return torch.cat([means, torch.relu(self.hidden(means))], -1)


class FirstStages(nn.Module):
    """The stem and the first `count` stages of an EfficientNet, pooled: (n, 3, px, px) -> (n, num_features).

    width: of a 1x1 convolution before the pooling, as the whole network ends with one; 0: none. There are few places
    left by then, so it costs little, and the teacher's 1,280 features are no linear map of 80.
    """

    def __init__(self, network: nn.Module, count: int, width: int = 0, *, px: int) -> None:
        super().__init__()
        blocks = getattr(network, "blocks", None)
        if not isinstance(blocks, nn.Sequential) or not 0 < count < len(blocks):
            raise RequestError(f"teacher-stages:{count}: this teacher has no such stages")
        stem: list[Any] = [network.conv_stem, network.bn1]
        self.stem = nn.Sequential(*copy.deepcopy(stem))
        self.blocks = copy.deepcopy(blocks[:count])
        with torch.no_grad():
            self.num_features = self.blocks(self.stem(torch.zeros(2, 3, px, px))).shape[1]
        self.last: nn.Module = nn.Identity()
        if width:
            convolution = nn.Conv2d(self.num_features, width, 1, bias=False)
            self.last = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU6())
            self.num_features = width

    def forward(self, picture: Tensor) -> Tensor:
        return self.last(self.blocks(self.stem(picture))).mean((2, 3), keepdim=True).flatten(1)


def build_image_tower(name: str, dim: int, px: int, macs_ratio: float | None, teacher: Encoder | None) -> Encoder:
    """The image tower: "timm:NAME" with fresh weights, "teacher-stages:N", "teacher-stages:N:WIDTH" or "pruned-teacher"
    from the teacher's network.

    px: the side of its pictures. macs_ratio: of a pruned teacher's MACs against the teacher's network, both at px.
    """
    if name.startswith("timm:"):
        return build_encoder(name, dim)
    if teacher is None:
        raise RequestError(f"student.image.network {name}: only the assembled teacher has a network to start from")
    if name.startswith("teacher-stages:"):
        numbers = name.removeprefix("teacher-stages:").split(":")
        if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
            raise RequestError(
                f"student.image.network {name}: expected a number of stages, such as teacher-stages:5, and perhaps the "
                "width of a last convolution, such as teacher-stages:5:1280"
            )
        network = FirstStages(copy.deepcopy(teacher.network).eval(), *map(int, numbers), px=px)
        mean, std = teacher.mean.flatten().tolist(), teacher.std.flatten().tolist()
        return Encoder(network, network.num_features, dim, 3, mean, std)
    if name == "pruned-teacher":
        assert macs_ratio is not None  # the recipe's schema says so
        fresh = copy.deepcopy(teacher)
        fresh.head, fresh.embedding_dim = nn.Linear(teacher.head.in_features, dim), dim
        return prune(fresh, torch.zeros(1, 3, px, px), macs_ratio, keep=[fresh.head])
    raise RequestError(
        f"student.image.network {name!r}: use timm:NAME, teacher-stages:N, teacher-stages:N:WIDTH or pruned-teacher"
    )
