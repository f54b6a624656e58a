"""The three distances follow their formulas, the subsequence is a longest one, and the teacher learns nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.losses.sequence import (
    attention_distance,
    context_distance,
    frame_distance,
    lcs_pairs,
    resampled,
    scheduled,
    sequence_distance,
)

BATCH, VIDEO, AUDIO, DIM = 2, 4, 6, 3


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def masks() -> tuple[Tensor, Tensor]:
    video = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    audio = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
    return video, audio


def longest_by_trying(a: list[int], b: list[int]) -> int:
    """The length of the longest common subsequence, by every subset of a's places."""
    for size in range(len(a), 0, -1):
        for places in itertools.combinations(range(len(a)), size):
            rest = iter(b)
            if all(a[place] in rest for place in places):
                return size
    return 0


def test_the_subsequence_is_common_ordered_and_as_long_as_any() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(0, 3, rng.integers(0, 8)).tolist() for _ in range(2))
        pairs = lcs_pairs(a, b)
        assert all(a[i] == b[j] for i, j in pairs)
        assert all(i < k and j < m for (i, j), (k, m) in itertools.pairwise(pairs))
        assert len(pairs) == longest_by_trying(a, b)


@pytest.mark.parametrize("window", [None, 1.0])
def test_the_frame_distance_is_that_of_a_loop_over_audio_frames(window: float | None) -> None:
    student, teacher = tensors((BATCH, VIDEO, DIM), (BATCH, AUDIO, DIM))
    video, audio = masks()
    total, frames = 0.0, 0
    for clip in range(BATCH):
        rate = int(video[clip].sum()) / int(audio[clip].sum())
        for j in range(AUDIO):
            if not audio[clip, j]:
                continue
            there = [i for i in range(VIDEO) if video[clip, i]]
            if window is not None:
                there = [i for i in there if abs((j + 0.5) * rate - (i + 0.5)) <= window]
            likeness = [math.exp(float((teacher[clip, j] @ student[clip, i]).detach()) / math.sqrt(DIM)) for i in there]
            seen = sum(
                (value / sum(likeness)) * student[clip, i].detach() for value, i in zip(likeness, there, strict=True)
            )
            total += float((teacher[clip, j] - seen).detach().square().sum()) / DIM
            frames += 1
    found = frame_distance(student, teacher, video, audio, window)
    assert float(found.detach()) == pytest.approx(total / frames, rel=1e-5)


def test_frames_that_do_not_exist_count_for_nothing() -> None:
    student, teacher = tensors((BATCH, VIDEO, DIM), (BATCH, AUDIO, DIM))
    video, audio = masks()
    before = frame_distance(student, teacher, video, audio)
    other_student, other_teacher = student.detach().clone(), teacher.detach().clone()
    other_student[~video] = 7.0
    other_teacher[~audio] = -7.0
    assert torch.allclose(before, frame_distance(other_student, other_teacher, video, audio))


def test_the_attention_distance_is_the_divergence_at_characters_that_the_teacher_got_right() -> None:
    student, teacher = (torch.softmax(row, dim=-1) for row in tensors((BATCH, 5, VIDEO), (BATCH, 5, VIDEO)))
    kept = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=teacher), torch.distributions.Categorical(probs=student)
    )
    by_torch = float(divergence.detach()[kept].mean())
    assert float(attention_distance(student, teacher, kept).detach()) == pytest.approx(by_torch, abs=1e-4)
    assert float(attention_distance(teacher, teacher, kept).detach()) == pytest.approx(0, abs=1e-6)
    assert float(attention_distance(student, teacher, torch.zeros_like(kept)).detach()) == 0


@pytest.mark.parametrize("frames", [3, 6, 11])
def test_resampled_attention_keeps_its_sum_and_its_time(frames: int) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(8), size=5)
    found = resampled(rows, frames)
    np.testing.assert_allclose(found.sum(1), 1)
    # against fine steps of time, each carrying an equal part of its frame
    fine = np.repeat(rows, 1000 * frames, axis=1) / (1000 * frames)
    np.testing.assert_allclose(found, fine.reshape(5, frames, -1).sum(-1), atol=1e-9)


def test_delayed_attention_lies_later_and_stays_within_the_clip() -> None:
    row = np.array([[0.0, 1.0, 0.0, 0.0]])
    assert resampled(row, 4, delay=2).tolist() == [[0, 0, 0, 1]]
    assert resampled(row, 4, delay=1.5).tolist() == [[0, 0, 0.5, 0.5]]
    assert resampled(row, 4, delay=9).tolist() == [[0, 0, 0, 1]]


def test_only_characters_that_the_teacher_got_right_count() -> None:
    student, teacher = tensors((BATCH, 5, DIM), (BATCH, 5, DIM))
    kept = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    pairs = [(0, 0), (0, 2), (1, 4)]
    by_hand = np.mean([float((teacher[i] - student[i]).detach().square().mean()) for i in pairs])
    assert float(context_distance(student, teacher, kept).detach()) == pytest.approx(by_hand, rel=1e-6)
    assert float(context_distance(student, teacher, torch.zeros_like(kept)).detach()) == 0


def test_the_student_learns_and_the_teacher_does_not() -> None:
    video, audio = masks()
    cases = [
        (lambda s, t: sequence_distance(s[:, 0], t[:, 0])),
        (lambda s, t: context_distance(s, t[:, :VIDEO], video)),
        (lambda s, t: frame_distance(s, t, video, audio)),
        (lambda s, t: attention_distance(s.softmax(-1), t[:, :VIDEO].softmax(-1), video)),
    ]
    for distance in cases:
        student, teacher = tensors((BATCH, VIDEO, DIM), (BATCH, AUDIO, DIM))
        distance(student, teacher).backward()
        assert teacher.grad is None and student.grad is not None and float(student.grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_decaying_weight_goes_from_itself_to_zero_and_stays(kind: str) -> None:
    values = [scheduled(10.0, kind, progress) for progress in np.linspace(0, 1, 11)]  # type: ignore[arg-type]
    assert values[0] == 10 and values[5] == pytest.approx(5) and values[-1] == pytest.approx(0)
    assert values == sorted(values, reverse=True) and scheduled(10.0, kind, 2.0) == pytest.approx(0)  # type: ignore[arg-type]


def test_a_constant_weight_stays() -> None:
    assert [scheduled(3.0, "constant", progress) for progress in (0.0, 0.5, 1.0)] == [3.0, 3.0, 3.0]
