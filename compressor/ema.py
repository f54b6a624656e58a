"""Exponential moving average of a module's weights: what is kept is the mean of many late steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """theta' = d theta' + (1 - d) theta after every step, over parameters and floating buffers; the rest is copied.

    While few steps were taken d is (1 + n) / (10 + n), so that the fresh weights do not linger. Source: Polyak and
    Juditsky 1992; the warm-up of d is that of TensorFlow's ExponentialMovingAverage. A stage calls `start` before its
    first step, `update` after each, and puts `state_dict` into its own.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values: dict[str, Tensor] = {}

    def start(self, module: nn.Module) -> None:
        """Take the module's values, unless a resumed run has brought back others."""
        if not self.values:
            self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}
        device = next(module.parameters()).device
        self.values = {name: value.to(device) for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        module.load_state_dict(self.values)

    @contextlib.contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """The module has the averaged values inside the `with`, and its own again after it."""
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.copy_to(module)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates, self.values = state["updates"], dict(state["values"])
