"""The selector's policies as networks: logits over K canvases. Their twins on the device are in glue.py.

They use what TFLite-Micro has: linear layers, ReLU, and for the GRU sigmoid, tanh, products and a concatenation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.tasks.sketch.selector.features import STROKES, SURENESS

POINT = 5  # x, y and three pen states


class FeaturePolicy(nn.Module):
    """Features (n, F) as z-scores -> logits (n, K): one hidden layer, or none where `hidden` is 0.

    The last layer starts at zero, so that every canvas is as probable as the others.
    """

    def __init__(self, features: int, canvases: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.head = _uniform(nn.Linear(hidden or features, canvases))
        self.macs = features * hidden + hidden * canvases if hidden else features * canvases

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))


class GruStep(nn.Module):
    """One step of a GRU: point (n, 5), state (n, H) -> next state (n, H), logits (n, K).

    The reset gate multiplies the state before the candidate's matrix, as in Cho et al. 2014 (arXiv:1406.1078), eq. 5
    to 8, so that a step is three linear layers on concatenations. A step and not the unrolled sequence: unrolled, 40
    points are 40 copies of every operator in a file, and every drawing would pay for the longest one.
    """

    def __init__(self, canvases: int, hidden: int) -> None:
        super().__init__()
        self.update = nn.Linear(POINT + hidden, hidden)
        self.reset = nn.Linear(POINT + hidden, hidden)
        self.candidate = nn.Linear(POINT + hidden, hidden)
        self.head = _uniform(nn.Linear(hidden, canvases))
        self.hidden = hidden
        self.macs = 3 * (POINT + hidden) * hidden + hidden * canvases

    def forward(self, point: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat((point, state), 1)
        z, r = torch.sigmoid(self.update(joined)), torch.sigmoid(self.reset(joined))
        candidate = torch.tanh(self.candidate(torch.cat((point, r * state), 1)))
        following = candidate + z * (state - candidate)
        return following, self.head(following)


class GruPolicy(nn.Module):
    """Five-tuples (n, points, 5) and how many of them count (n,) -> logits (n, K) after the last that counts."""

    def __init__(self, canvases: int, hidden: int) -> None:
        super().__init__()
        self.step = GruStep(canvases, hidden)

    def forward(self, tuples: Tensor, steps: Tensor) -> Tensor:
        state = tuples.new_zeros(len(tuples), self.step.hidden)
        for index in range(int(steps.max())):
            following, _ = self.step(tuples[:, index], state)
            state = torch.where((steps > index)[:, None], following, state)
        return self.step.head(state)


class CrossFitted(nn.Module):
    """A policy, and one more for each of `folds` parts of the data, which is trained without that part.

    `policies[0]` learns from everything and is deployed; `policies[1 + f]` says how well such a policy does on part f.
    All start from the same weights.
    """

    def __init__(self, policies: list[nn.Module]) -> None:
        super().__init__()
        for policy in policies[1:]:
            policy.load_state_dict(policies[0].state_dict())
        self.policies = nn.ModuleList(policies)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (1 + folds, n, K)."""
        return torch.stack([policy(*inputs) for policy in self.policies])

    @property
    def deployed(self) -> nn.Module:
        return self.policies[0]


def build_policy(kind: str, canvases: int, hidden: int) -> nn.Module:
    """The policy of kind "statistics", "gate" or "gru", with fresh weights from torch's generator."""
    if kind == "gru":
        return GruPolicy(canvases, hidden)
    features = len(STROKES) + (len(SURENESS) if kind == "gate" else 0)
    return FeaturePolicy(features, canvases, hidden)


def _uniform(head: nn.Linear) -> nn.Linear:
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
