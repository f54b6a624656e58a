"""Distillation between sequence-to-sequence models of two modalities: sequences, contexts, frames, attention.

Source: LIBS, "Hearing Lips: Improving Lip Reading by Distilling Speech Recognizers" (Zhao et al., AAAI 2020), sections
3.2 to 3.4. The teacher hears, the student sees; their frames come at different rates and their widths may differ, so
the student's side is mapped by a linear layer of the caller's. Squared distances are means over the feature axis: the
width of a model does not change what a weight means. Nothing here sends a gradient into the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Schedule = Literal["constant", "linear", "cosine"]


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values where the mask, of the same shape, is true; 0 where it is so nowhere."""
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def sequence_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """|| s_audio - t(s_video) ||^2 of the encoders' last states, both (batch, dim), averaged over the batch."""
    return (teacher.detach() - student).square().mean()


def context_distance(student: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    """The same of the decoders' context vectors, (batch, characters, dim), where `kept` (batch, characters) is true:
    at characters that the teacher got right (`lcs_pairs`), each matched with its own. 0 where none is kept."""
    return mean_where((teacher.detach() - student).square().mean(-1), kept)


def attention_distance(student: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    """KL(teacher || student) of the decoders' attention over the video frames, both (batch, characters, frames),
    averaged where `kept` (batch, characters) is true; `teacher` is brought to the video's rate (`resampled`). Not in
    LIBS: its context term lets a student find the teacher's contexts in frames of another time. 0 where none is kept.
    """
    teacher = teacher.detach()
    small = 1e-6
    return mean_where((teacher * ((teacher + small).log() - (student + small).log())).sum(-1), kept)


def resampled(attention: np.ndarray, frames: int, delay: float = 0.0) -> np.ndarray:
    """Attention (characters, v) over v frames as attention over `frames` frames of the same duration, (characters,
    frames), `delay` of these later; every row keeps its sum, what would lie beyond the end lies in the last frame.

    >>> resampled(np.array([[0.5, 0.5, 0.0, 0.0]]), 2).tolist()
    [[1.0, 0.0]]
    """
    edges = np.linspace(0, frames, attention.shape[1] + 1) + delay
    mass = np.concatenate([np.zeros((len(attention), 1)), np.cumsum(attention, axis=1)], axis=1)
    places = np.arange(1, frames)
    inner = np.array([np.interp(places, edges, row) for row in mass]).reshape(len(mass), frames - 1)
    return np.diff(np.concatenate([mass[:, :1], inner, mass[:, -1:]], axis=1), axis=1)


def frame_distance(
    student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor, window: float | None = None
) -> Tensor:
    """|| h_audio,j - sum_i a_ij h_video,i ||^2, averaged over the audio frames j of the whole batch.

    student (batch, video frames, dim), teacher (batch, audio frames, dim); masks are true at frames that exist. a_ij is
    the softmax over the video frames i of the dot products h_audio,j . h_video,i, divided by sqrt(dim) as in scaled
    attention: each audio frame looks for the video frames that match it, whatever the two rates are.

    `window`: only among video frames that are at most so many of them away from the audio frame's own time, both
    sequences lasting equally long. Without it (the paper's form) frames that match by chance are as good as those that
    show the sound, and frames that differ from each other in any way can be combined to whatever the teacher says.
    """
    allowed = student_mask[:, None].bool()
    if window is not None:
        allowed = allowed & near(student_mask, teacher_mask, window)
    attended = attend(teacher.detach(), student, allowed)
    return mean_where((teacher.detach() - attended).square().mean(-1), teacher_mask)


def near(student_mask: Tensor, teacher_mask: Tensor, window: float) -> Tensor:
    """(batch, audio frames, video frames) bool: true where the times of the two are at most `window` video frames
    apart. The times of an audio frame beyond the end are its clip's end, so that no row is without a frame."""
    lengths, heard = student_mask.sum(1), teacher_mask.sum(1)
    own = torch.arange(student_mask.shape[1], device=lengths.device) + 0.5
    times = torch.arange(teacher_mask.shape[1], device=lengths.device) + 0.5
    times = torch.minimum(times * (lengths / heard)[:, None], lengths[:, None])
    return (times[:, :, None] - own[None, None]).abs() <= max(window, 0.5)


def attend(queries: Tensor, memory: Tensor, allowed: Tensor) -> Tensor:
    """(batch, queries, dim), (batch, frames, dim), (batch, queries or 1, frames) -> the memory's mean for each query
    over the frames that are allowed, weighted by the softmax of scaled dot products."""
    scores = queries @ memory.transpose(1, 2) / math.sqrt(memory.shape[-1])
    scores = scores.masked_fill(~allowed, -torch.inf)
    return torch.softmax(scores, dim=-1) @ memory


def lcs_pairs(prediction: Sequence[int], truth: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (in the prediction, in the truth) of one longest common subsequence, ascending in both.

    Of several longest ones always the same one. O(n m) time (Wagner and Fischer 1974).

    >>> lcs_pairs([1, 2, 4], [1, 3, 2, 4])
    [(0, 0), (1, 2), (2, 3)]
    """
    rows, columns = len(prediction), len(truth)
    length = [[0] * (columns + 1) for _ in range(rows + 1)]  # of what is left from (i, j) on
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            if prediction[i] == truth[j]:
                length[i][j] = length[i + 1][j + 1] + 1
            else:
                length[i][j] = max(length[i + 1][j], length[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < rows and j < columns:
        if prediction[i] == truth[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def scheduled(weight: float, kind: Schedule, progress: float) -> float:
    """A weight at `progress` (0 at the first step, 1 at the end of its schedule and after): constant, or decaying to
    zero in a line or along half a cosine.

    >>> scheduled(10.0, "linear", 0.25)
    7.5
    """
    progress = min(max(progress, 0.0), 1.0)
    if kind == "constant":
        return weight
    if kind == "linear":
        return weight * (1 - progress)
    return weight * 0.5 * (1 + math.cos(math.pi * progress))
