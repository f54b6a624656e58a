"""Relational distillation: match distances between embeddings instead of the embeddings themselves.

Teacher and student may have different widths, since only scalars (distances) are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pairwise_distance(a: Tensor, b: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Euclidean distance of row i of `a` to row i of `b`: (batch, dim) x 2 -> (batch,).

    The root is smoothed by `epsilon`: its gradient at zero distance is then 0 and not NaN.
    """
    return ((a - b).square().sum(-1) + epsilon).sqrt() - epsilon**0.5


def triplet_distances(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The three distances of a triplet, (s,p), (s,n), (p,n): three (batch, dim) -> (3, batch)."""
    return torch.stack(
        [
            pairwise_distance(anchor, positive),
            pairwise_distance(anchor, negative),
            pairwise_distance(positive, negative),
        ]
    )


def rkd_triplet(
    student: tuple[Tensor, Tensor, Tensor],
    teacher: tuple[Tensor, Tensor, Tensor],
    normalise: bool = False,
    delta: float = 1.0,
) -> Tensor:
    """RKD of SketchyNetV1: Huber between student's and teacher's distances over (s,p), (s,n), (p,n).

    `student`, `teacher`: (sketch, positive photo, negative photo) embeddings, (batch, dim) each; widths may differ.
    `normalise` divides each side by the mean of its own distances (the factor mu of Park et al. 2019, eq. 6), for
    embeddings that are not L2-normalised and so differ in scale. The teacher gets no gradient.
    Source: Sketch Down the FLOPs (CVPR 2025), SketchyNetV1; Relational Knowledge Distillation (CVPR 2019), eq. 5-8.
    """
    ours = triplet_distances(*student)
    with torch.no_grad():
        theirs = triplet_distances(*teacher)
    return _huber(ours, theirs, normalise, delta)


def rkd_distance(student: Tensor, teacher: Tensor, normalise: bool = True, delta: float = 1.0) -> Tensor:
    """RKD-D: Huber between all pairwise distances of a batch, sum over i != j averaged.

    `student` (batch, d), `teacher` (batch, D), at least two rows. psi(i, j) = ||t_i - t_j|| / mu with mu the mean
    distance over pairs when `normalise`. Source: Park et al., Relational Knowledge Distillation (CVPR 2019), eq. 5-8.
    """
    first, second = torch.triu_indices(len(student), len(student), offset=1, device=student.device)
    ours = pairwise_distance(student[first], student[second])
    with torch.no_grad():
        theirs = pairwise_distance(teacher[first], teacher[second])
    return _huber(ours, theirs, normalise, delta)


def rkd_cross(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], normalise: bool = False) -> Tensor:
    """RKD over every (sketch, photo) pair of a batch, not only the triplets': all (s_i, p_j) distances.

    `student`, `teacher`: (sketches (batch, dim), photos (photos, dim)). With a shared photo embedding (an asymmetric
    gallery) this pins the student's sketch by its distances to many fixed points.
    """
    ours = _distance_matrix(*student)
    with torch.no_grad():
        theirs = _distance_matrix(*teacher)
    return _huber(ours, theirs, normalise, 1.0)


def _distance_matrix(a: Tensor, b: Tensor, epsilon: float = 1e-8) -> Tensor:
    squared = a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * a @ b.T
    return (squared.clamp_min(0) + epsilon).sqrt() - epsilon**0.5


def _huber(ours: Tensor, theirs: Tensor, normalise: bool, delta: float) -> Tensor:
    if normalise:
        ours = ours / ours.mean().clamp_min(1e-12)
        theirs = theirs / theirs.mean().clamp_min(1e-12)
    return functional.huber_loss(ours, theirs, delta=delta)
