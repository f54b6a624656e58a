"""The losses against direct loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from compressor.losses import contrastive, relational, response


def rows(count: int, dim: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def huber(x: float, y: float, delta: float = 1.0) -> float:
    gap = abs(x - y)
    return 0.5 * gap**2 if gap <= delta else delta * (gap - 0.5 * delta)


@pytest.mark.parametrize("normalise", [False, True])
def test_rkd_triplet_is_the_paper_s_sum_over_three_distances(normalise: bool) -> None:
    student = tuple(3 * rows(5, 4, seed) for seed in (1, 2, 3))  # times 3: some gaps fall in Huber's linear part
    teacher = tuple(rows(5, 7, seed) for seed in (4, 5, 6))

    def distances(s: torch.Tensor, p: torch.Tensor, n: torch.Tensor) -> list[float]:
        pairs = [(s, p), (s, n), (p, n)]
        return [math.dist(a[i].tolist(), b[i].tolist()) for a, b in pairs for i in range(5)]

    ours, theirs = distances(*student), distances(*teacher)
    if normalise:
        ours = [d / (sum(ours) / 15) for d in ours]
        theirs = [d / (sum(theirs) / 15) for d in theirs]
    expected = sum(map(huber, ours, theirs)) / 15
    assert relational.rkd_triplet(student, teacher, normalise=normalise).item() == pytest.approx(expected, rel=2e-4)


def test_rkd_distance_is_park_s_loss_over_all_pairs_of_the_batch() -> None:
    student, teacher = rows(6, 3, 1), 5 * rows(6, 8, 2)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    ours = [math.dist(student[i].tolist(), student[j].tolist()) for i, j in pairs]
    theirs = [math.dist(teacher[i].tolist(), teacher[j].tolist()) for i, j in pairs]
    mu_s, mu_t = sum(ours) / len(pairs), sum(theirs) / len(pairs)
    expected = sum(huber(a / mu_s, b / mu_t) for a, b in zip(ours, theirs, strict=True)) / len(pairs)
    assert relational.rkd_distance(student, teacher).item() == pytest.approx(expected, rel=2e-4)


def test_rkd_is_zero_for_a_rotated_teacher_and_gives_no_gradient_to_it() -> None:
    teacher = rows(8, 5, 1).requires_grad_()
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    student = (teacher.detach() @ rotation).requires_grad_()
    loss = relational.rkd_distance(student, teacher)
    assert loss.item() < 1e-12
    (loss + student.sum()).backward()
    assert teacher.grad is None


def test_rkd_cross_compares_every_sketch_with_every_photo() -> None:
    student, teacher = (rows(4, 3, 1), rows(6, 3, 2)), (rows(4, 5, 3), rows(6, 5, 4))
    total = sum(
        huber(
            math.dist(student[0][i].tolist(), student[1][j].tolist()),
            math.dist(teacher[0][i].tolist(), teacher[1][j].tolist()),
        )
        for i in range(4)
        for j in range(6)
    )
    assert relational.rkd_cross(student, teacher).item() == pytest.approx(total / 24, rel=2e-4)


def test_distance_of_a_point_to_itself_has_a_finite_gradient() -> None:
    point = torch.ones(2, 3, requires_grad=True)
    distance = relational.pairwise_distance(point, torch.ones(2, 3))
    distance.sum().backward()
    assert distance.abs().max() < 1e-7 and torch.equal(point.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("symmetric", [True, False])
def test_info_nce_against_a_loop(symmetric: bool) -> None:
    query, key, temperature = rows(5, 4, 1), rows(5, 4, 2), 0.1

    def one_way(a: torch.Tensor, b: torch.Tensor) -> float:
        total = 0.0
        for i in range(5):
            scores = [float(a[i] @ b[j]) / temperature for j in range(5)]
            total += -scores[i] + math.log(sum(math.exp(score) for score in scores))
        return total / 5

    expected = (one_way(query, key) + one_way(key, query)) / 2 if symmetric else one_way(query, key)
    assert contrastive.info_nce(query, key, temperature, symmetric=symmetric).item() == pytest.approx(expected)


def test_info_nce_of_identical_keys_is_log_of_their_number() -> None:
    key = rows(1, 4, 1).expand(9, 4)
    assert contrastive.info_nce(rows(9, 4, 2), key, symmetric=False).item() == pytest.approx(math.log(9))


def test_info_nce_refuses_a_symmetric_loss_with_more_keys_than_queries() -> None:
    with pytest.raises(ValueError, match="one key per query"):
        contrastive.info_nce(rows(3, 4, 1), rows(5, 4, 2))


def test_triplet_is_the_hinge_of_two_distances() -> None:
    anchor, positive = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    negative = torch.tensor([[0.0, 4.9], [0.0, 9.0]])
    # (.2 + 5 - 4.9) = .3 and max(0, .2 + 1 - 9) = 0
    assert contrastive.triplet(anchor, positive, negative, margin=0.2).item() == pytest.approx(0.15, abs=1e-3)


def test_hardest_negative_is_the_nearest_wrong_key() -> None:
    keys = torch.eye(3)
    anchor = normalize(torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.2, 0.9]]), dim=1)
    assert contrastive.hardest_negatives(anchor, keys, torch.tensor([0, 2])).tolist() == [1, 1]


def test_prototype_kl_is_batchmean_and_zero_for_the_teacher_itself() -> None:
    student, teacher, prototypes = rows(4, 6, 1), rows(4, 6, 2), rows(10, 6, 3)
    total = 0.0
    for i in range(4):
        p = torch.softmax(teacher[i] @ prototypes.T / 0.1, dim=0).tolist()
        q = torch.softmax(student[i] @ prototypes.T / 0.2, dim=0).tolist()
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert response.prototype_kl(student, teacher, prototypes, 0.2, 0.1).item() == pytest.approx(total / 4)
    assert response.prototype_kl(teacher, teacher, prototypes).item() == pytest.approx(0, abs=1e-12)


def test_prototype_cross_entropy_is_info_nce_against_the_teacher_s_prototypes() -> None:
    student, prototypes, target = rows(4, 6, 1), rows(10, 6, 3), torch.tensor([3, 1, 9, 0])
    expected = contrastive.info_nce(student, prototypes, 0.07, target, symmetric=False)
    assert response.prototype_cross_entropy(student, prototypes, target).item() == pytest.approx(expected.item())


def test_cosine_is_half_the_squared_distance_of_unit_vectors() -> None:
    student, teacher = rows(4, 6, 1), rows(4, 6, 2)
    expected = (student - teacher).square().sum(1).mean().item() / 2
    assert response.cosine(student, teacher).item() == pytest.approx(expected)
    assert response.cosine(7 * student, teacher).item() == pytest.approx(expected)
