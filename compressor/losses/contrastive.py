"""Contrastive losses: pull a pair together, push the others away."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressor.losses.relational import pairwise_distance


def info_nce(
    query: Tensor, key: Tensor, temperature: float | Tensor = 0.07, target: Tensor | None = None, symmetric: bool = True
) -> Tensor:
    """InfoNCE between L2-normalised rows: cross-entropy of softmax(q k^T / temperature) at the matching row.

    `query` (batch, dim); `key` (keys, dim). Row i of `query` matches row `target[i]` of `key` (default: row i).
    `symmetric` averages with the direction key -> query and needs as many keys as queries and no `target`.
    Source: van den Oord et al. 2018, eq. 4; the symmetric form is CLIP's (Radford et al. 2021, figure 3).
    """
    logits = query @ key.T / temperature
    if symmetric and (target is not None or len(query) != len(key)):
        raise ValueError("the symmetric form needs one key per query, in order, and no target")
    if target is None:
        target = torch.arange(len(query), device=query.device)
    loss = functional.cross_entropy(logits, target)
    return (loss + functional.cross_entropy(logits.T, target)) / 2 if symmetric else loss


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2) -> Tensor:
    """Triplet loss, mean of max(0, margin + d(s, p) - d(s, n)); (batch, dim) each, Euclidean d.

    Source: Yu et al., Sketch Me That Shoe (CVPR 2016), eq. 1; used by SketchyNetV1.
    """
    return (margin + pairwise_distance(anchor, positive) - pairwise_distance(anchor, negative)).clamp_min(0).mean()


def triplet_in_batch(query: Tensor, key: Tensor, margin: float = 0.2) -> Tensor:
    """The triplet loss over every other key of the batch: what a negative drawn by chance gives on average.

    `query`, `key` (batch, dim), L2-normalised; row i of `query` matches row i of `key`; at least two rows.
    """
    distance = pairwise_distance(query[:, None], key[None])
    violation = (margin + distance.diagonal()[:, None] - distance).clamp_min(0)
    return (violation.sum() - violation.diagonal().sum()) / (len(query) * (len(query) - 1))


def hardest_negatives(anchor: Tensor, keys: Tensor, target: Tensor) -> Tensor:
    """For each anchor the row of `keys` nearest to it that is not its own.

    `anchor` (batch, dim), `keys` (keys, dim), `target` (batch,): each anchor's own row. Returns (batch,) indices.
    Rows are L2-normalised. No gradient flows through the choice.
    """
    with torch.no_grad():
        similarity = anchor @ keys.T
        similarity.scatter_(1, target[:, None], -torch.inf)
        return similarity.argmax(1)
