"""Pruning: the budget is met, the embedding keeps its width, and what is left is the teacher's."""

from __future__ import annotations

import copy

import pytest
import torch

from compressor.models.encoder import build_encoder
from compressor.prune import prune
from profiles.errors import RequestError
from profiles.flops import count_module

EXAMPLE = torch.zeros(1, 1, 32, 32)


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_encoder("timm:test_efficientnet", 24).eval()


def test_the_carved_copy_meets_the_budget_and_keeps_the_embedding(teacher: torch.nn.Module) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    carved = prune(teacher, EXAMPLE, 0.5, keep=[teacher.head])
    assert carved(EXAMPLE).shape == (1, 24)
    ratio = count_module(carved, EXAMPLE).macs / count_module(teacher, EXAMPLE).macs
    assert 0.3 < ratio <= 0.5  # not far below: the carving stops at the budget
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_carving_twice_gives_the_same_network(teacher: torch.nn.Module) -> None:
    first, second = (prune(teacher, EXAMPLE, 0.8, keep=[teacher.head]).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_weakest_channels_go_first() -> None:
    """Two convolutions; half the channels between them are near zero: they are the ones that are cut."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3, padding=1)
    )
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].weight[::2] *= 1e-3
        network[2].weight.fill_(1.0)
    carved = prune(network, EXAMPLE, 0.55, keep=[network[2]])
    assert carved[0].weight.shape == (8, 1, 3, 3)
    assert torch.equal(carved[0].weight, torch.ones(8, 1, 3, 3))


def test_a_ratio_that_cannot_be_reached_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3))
    with pytest.raises(RequestError, match=r"macs_ratio 0\.0001"):
        prune(network, EXAMPLE, 0.0001, keep=[network[2]])


def test_frozen_layers_are_carved_too_and_the_copy_can_be_trained(teacher: torch.nn.Module) -> None:
    frozen = copy.deepcopy(teacher).requires_grad_(False)
    first, second = (prune(module, EXAMPLE, 0.5, keep=[module.head]) for module in (teacher, frozen))
    assert [tuple(p.shape) for p in first.parameters()] == [tuple(p.shape) for p in second.parameters()]
    assert all(parameter.requires_grad for parameter in second.parameters())
