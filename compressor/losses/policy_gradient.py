"""Policy gradient for one choice among K actions: rewards, REINFORCE with a baseline, the exact expectation.

`logits` and `rewards` are (batch, actions). A loss is a scalar tensor whose negative gradient raises the reward.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

Baseline = Literal["none", "mean", "self_critical"]
Array = TypeVar("Array", np.ndarray, Tensor)


def selector_reward(
    macs: Array,
    usefulness: Array,
    triplet: Array,
    *,
    most_macs: float,
    lambda_flops: float,
    lambda_rank: float = 1.0,
    lambda_triplet: float = 0.0,
) -> Array:
    """R = lambda_F (-FLOPs / most FLOPs) + (1 - lambda_F) (lambda_r / rank - lambda_tri L_triplet); all of one shape.

    usefulness: 1 / rank, or another number in [0, 1] that says how right the answer was. FLOPs enter as a ratio, so
    multiply-accumulates will do. Source: Sketch Down the FLOPs (CVPR 2025), SketchyNetV2's reward.
    """
    right = lambda_rank * usefulness - lambda_triplet * triplet
    return (1 - lambda_flops) * right - lambda_flops * macs / most_macs


def reinforce(logits: Tensor, rewards: Tensor, actions: Tensor, baseline: Baseline = "mean") -> Tensor:
    """Mean over the batch of -(R(action) - b) log pi(action); actions (batch,) were drawn from pi = softmax(logits).

    baseline: "mean" over all actions of the item (their rewards are all known), "self_critical" (the reward of the
    most probable action), or "none". None of them depends on the action, so none changes the expected gradient.
    Sources: Williams 1992 (REINFORCE); Rennie et al. 2017, eq. 9 (self-critical).
    """
    log_pi = torch.log_softmax(logits, dim=-1).gather(-1, actions[:, None])[:, 0]
    earned = rewards.gather(-1, actions[:, None])[:, 0]
    return -((earned - _baseline(logits, rewards, baseline)) * log_pi).mean()


def _baseline(logits: Tensor, rewards: Tensor, kind: Baseline) -> Tensor:
    if kind == "none":
        return torch.zeros_like(rewards[:, 0])
    if kind == "mean":
        return rewards.mean(-1)
    return rewards.gather(-1, logits.detach().argmax(-1, keepdim=True))[:, 0]


def expected_reward_loss(logits: Tensor, rewards: Tensor) -> Tensor:
    """-mean sum_k pi(k) R(k): its gradient is the expectation of `reinforce`'s, without the variance of sampling.

    For where the rewards of all actions are known, as they are of every canvas.
    """
    return -(torch.softmax(logits, dim=-1) * rewards).sum(-1).mean()


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of softmax(logits) in nats: (batch, actions) -> scalar. Its multiple is the usual bonus."""
    log_pi = torch.log_softmax(logits, dim=-1)
    return -(log_pi.exp() * log_pi).sum(-1).mean()
