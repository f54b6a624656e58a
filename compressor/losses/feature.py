"""Feature distillation: the student's features, through an adapter, aim at the teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def feature_smooth_l1(adapted: Tensor, teacher: Tensor, beta: float = 1.0) -> Tensor:
    """SmoothL1 between adapted student features and teacher features, (batch, dim) each, averaged over both axes.

    0.5 d^2 / beta where |d| < beta, |d| - 0.5 beta elsewhere. The teacher gets no gradient; its features should have a
    deviation of about 1 in each dimension, so that `beta` means something. Source: DC-CLIP (2024), stage 1.
    """
    return functional.smooth_l1_loss(adapted, teacher.detach(), beta=beta)
