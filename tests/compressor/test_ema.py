"""The moving average of weights, against its closed form."""

import pytest
import torch
from torch import nn

from compressor.ema import MovingAverage


def one_number(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_the_average_follows_the_recursion_with_its_warm_up():
    module, average = one_number(1.0), MovingAverage(0.9)
    average.start(module)
    expected = 1.0
    for step in range(1, 200):
        nn.init.constant_(module.weight, float(step % 7))
        average.update(module)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    assert average.values["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_the_module_has_the_average_inside_and_its_own_after():
    module, average = one_number(1.0), MovingAverage(0.5)
    average.start(module)
    nn.init.constant_(module.weight, 3.0)
    average.update(module)
    with average.in_place_of(module):
        inside = module.weight.item()
    assert inside == pytest.approx(1.0 * 2 / 11 + 3.0 * 9 / 11) and module.weight.item() == 3.0


def test_counters_of_batch_norm_are_copied_and_its_statistics_averaged():
    module, average = nn.BatchNorm1d(2), MovingAverage(0.9)
    average.start(module)
    module(torch.randn(64, 2) + 5)
    average.update(module)
    assert average.values["num_batches_tracked"] == 1
    assert 0 < average.values["running_mean"].mean() < module.running_mean.mean() * 1.001


def test_a_resumed_average_goes_on_where_it_was():
    module, whole = one_number(1.0), MovingAverage(0.8)
    whole.start(module)
    resumed = None
    for step in range(20):
        if step == 10:
            resumed = MovingAverage(0.8)
            resumed.load_state_dict({**whole.state_dict(), "values": {k: v.clone() for k, v in whole.values.items()}})
            resumed.start(module)
        nn.init.constant_(module.weight, float(step))
        whole.update(module)
        if resumed is not None:
            resumed.update(module)
    assert torch.equal(whole.values["weight"], resumed.values["weight"])
