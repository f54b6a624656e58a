"""Distillation through a queue: the student must see a batch among many stored embeddings as the teacher sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def queue_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = 0.05,
    teacher_temperature: float = 0.1,
) -> Tensor:
    """COMODO's loss: mean over the batch of -sum_k p_k log q_k.

    p = softmax(z_v Q^T / teacher_temperature), q = softmax(z_x Q^T / student_temperature). `student` z_x and `teacher`
    z_v are (batch, dim), `queue` Q (rows, dim), all rows L2-normalised; row i of both is one moment, and the paper has
    the batch's own teacher rows in Q. Teacher and queue get no gradient. Source: COMODO (2025), cross-modal
    self-distillation; the scheme is SEED's (Fang et al. 2021, eq. 4-6).
    """
    keys = queue.detach()
    p = functional.softmax(teacher.detach() @ keys.T / teacher_temperature, dim=-1)
    log_q = functional.log_softmax(student @ keys.T / student_temperature, dim=-1)
    return -(p * log_q).sum(-1).mean()


class EmbeddingQueue:
    """The newest `length` rows of what was appended, first in, first out, without gradient.

    A ring: `rows` are in no particular order, which a softmax over them does not see; `in_order` gives them oldest
    first. Where several processes append the same gathered rows, their queues stay equal.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"a queue of {length} rows")
        self.length = length
        self.appended = 0  # rows, since the beginning
        self._ring: Tensor | None = None

    def __len__(self) -> int:
        return min(self.appended, self.length)

    @property
    def rows(self) -> Tensor:
        """(len(self), dim). Not a copy: valid until the next `append`."""
        if self._ring is None:
            raise ValueError("the queue is empty")
        return self._ring[: len(self)]

    @torch.no_grad()
    def append(self, rows: Tensor) -> None:
        """Put (n, dim) behind the newest; the oldest leave. Of more than `length` rows the last ones stay."""
        if self._ring is None or self._ring.device != rows.device:
            fresh = rows.new_zeros(self.length, rows.shape[1])
            self._ring = fresh if self._ring is None else self._ring.to(rows.device)
        kept = rows.detach()[-self.length :]
        first = self.appended + len(rows) - len(kept)
        places = torch.arange(first, first + len(kept), device=rows.device) % self.length
        self._ring[places] = kept.to(self._ring.dtype)
        self.appended += len(rows)

    def in_order(self) -> Tensor:
        """(len(self), dim), oldest first; a copy."""
        oldest = self.appended % self.length if self.appended >= self.length else 0
        return torch.roll(self.rows, -oldest, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"appended": self.appended, "ring": None if self._ring is None else self._ring.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError if the rows are those of a queue of another length."""
        ring = state["ring"]
        if ring is not None and len(ring) != self.length:
            raise ValueError(f"a queue of {len(ring)} rows was saved, this one has {self.length}")
        self.appended = state["appended"]
        self._ring = None if ring is None else ring.clone()
