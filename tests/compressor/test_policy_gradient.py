"""The selector's reward by hand, and policy gradients against finite differences and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.losses.policy_gradient import entropy, expected_reward_loss, reinforce, selector_reward


def problem(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(True), torch.rand(batch, 4, generator=generator, dtype=torch.float64)


def test_the_reward_is_the_papers_formula() -> None:
    macs, rank, triplet = np.array([1.0, 4.0]), np.array([5.0, 1.0]), np.array([0.3, 0.0])
    options = {"most_macs": 4.0, "lambda_flops": 0.2, "lambda_rank": 2.0, "lambda_triplet": 0.5}
    reward = selector_reward(macs, 1 / rank, triplet, **options)  # type: ignore[type-var]
    assert reward == pytest.approx([0.2 * -0.25 + 0.8 * (2 / 5 - 0.5 * 0.3), 0.2 * -1 + 0.8 * 2])


def test_the_exact_gradient_is_the_policy_gradient_theorem() -> None:
    """d/dlogit_k of sum pi R is pi_k (R_k - sum pi R)."""
    logits, rewards = problem()
    expected_reward_loss(logits, rewards).backward()
    pi = torch.softmax(logits.detach(), 1)
    by_hand = -pi * (rewards - (pi * rewards).sum(1, keepdim=True)) / len(logits)
    assert torch.allclose(logits.grad, by_hand)


@pytest.mark.parametrize("baseline", ["none", "mean", "self_critical"])
def test_reinforce_is_the_exact_gradient_in_expectation_whatever_the_baseline(baseline: str) -> None:
    """The expectation is taken over all actions, each with its probability: no sampling in this test."""
    logits, rewards = problem(batch=1)
    expected_reward_loss(logits, rewards).backward()
    exact, pi = logits.grad.clone(), torch.softmax(logits.detach(), 1)[0]
    mean = torch.zeros_like(exact)
    for action in range(4):
        logits.grad = None
        reinforce(logits, rewards, torch.tensor([action]), baseline).backward()  # type: ignore[arg-type]
        mean += pi[action] * logits.grad
    assert torch.allclose(mean, exact)


def test_a_baseline_takes_variance_out_of_the_gradient() -> None:
    logits, rewards = problem(batch=1)
    rewards = rewards + 5
    pi = torch.softmax(logits.detach(), 1)[0]
    variance = {}
    for baseline in ("none", "mean", "self_critical"):
        gradients = []
        for action in range(4):
            logits.grad = None
            reinforce(logits, rewards, torch.tensor([action]), baseline).backward()  # type: ignore[arg-type]
            gradients.append(logits.grad.clone()[0])
        stacked = torch.stack(gradients)
        centred = stacked - (pi[:, None] * stacked).sum(0)
        variance[baseline] = float((pi[:, None] * centred.square()).sum())
    assert variance["mean"] < variance["none"] / 20 and variance["self_critical"] < variance["none"] / 20


def test_entropy_of_a_uniform_policy_is_the_logarithm_of_its_actions() -> None:
    assert float(entropy(torch.zeros(2, 5))) == pytest.approx(np.log(5))
    assert float(entropy(torch.tensor([[100.0, 0.0]]))) == pytest.approx(0, abs=1e-6)
