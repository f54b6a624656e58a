"""COMODO's queue and loss: against the formula written out, its gradient, a list, and two processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from compressor.checkpoint import load_state, save_state
from compressor.losses.queue import EmbeddingQueue, queue_cross_entropy
from tests.compressor.engine import PATIENCE_S, fork
from tests.compressor.queue_child import queue_and_gradient, unit_rows


def test_the_loss_is_the_formula_written_out() -> None:
    student, teacher, queue = unit_rows(3, seed=1), unit_rows(3, seed=2), unit_rows(7, seed=3)
    total = 0.0
    for z_x, z_v in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(sum(a * b for a, b in zip(z_v, row, strict=True)) / 0.1) for row in queue.tolist()]
        q = [math.exp(sum(a * b for a, b in zip(z_x, row, strict=True)) / 0.05) for row in queue.tolist()]
        total -= sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True))
    assert float(queue_cross_entropy(student, teacher, queue)) == pytest.approx(total / 3, rel=1e-12)


def test_the_gradient_is_the_closed_form_and_only_the_student_s() -> None:
    """d loss / d z_x = (q - p) Q / (temperature x batch), by hand from the softmax."""
    student, teacher, queue = (unit_rows(count, seed=seed).requires_grad_() for count, seed in ((4, 1), (4, 2), (9, 3)))
    queue_cross_entropy(student, teacher, queue, 0.05, 0.1).backward()
    with torch.no_grad():
        p = torch.softmax(teacher @ queue.T / 0.1, 1)
        q = torch.softmax(student @ queue.T / 0.05, 1)
        expected = (q - p) @ queue / 0.05 / len(student)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected, rtol=1e-10, atol=1e-12)
    assert teacher.grad is None and queue.grad is None


@pytest.mark.parametrize("sizes", [(3, 2), (4, 4, 4), (5, 5, 5, 1), (13,), (6, 13, 3)])
def test_the_queue_is_the_tail_of_all_that_was_appended(sizes: tuple[int, ...]) -> None:
    queue = EmbeddingQueue(7)
    seen = torch.zeros(0, 5, dtype=torch.float64)
    for number, size in enumerate(sizes):
        rows = unit_rows(size, seed=number).requires_grad_()
        queue.append(rows)
        seen = torch.cat([seen, rows.detach()])
        assert len(queue) == min(7, len(seen))
        torch.testing.assert_close(queue.in_order(), seen[-7:], rtol=0, atol=0)
        assert not queue.rows.requires_grad
        order = {tuple(row) for row in queue.rows.tolist()}
        assert order == {tuple(row) for row in seen[-7:].tolist()}


def test_a_queue_that_was_saved_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    one, other = EmbeddingQueue(7), EmbeddingQueue(7)
    one.append(unit_rows(10))
    save_state(tmp_path / "state", one.state_dict())
    other.load_state_dict(load_state(tmp_path / "state"))
    for queue in (one, other):
        queue.append(unit_rows(3, seed=4))
    assert torch.equal(one.in_order(), other.in_order())
    with pytest.raises(ValueError, match="7 rows was saved"):
        EmbeddingQueue(8).load_state_dict(one.state_dict())


def test_two_processes_have_one_queue_and_the_gradient_of_the_joined_batch(tmp_path: Path) -> None:
    outputs = [tmp_path / str(rank) for rank in (0, 1)]
    children = [
        fork(queue_and_gradient, rank, 2, str(tmp_path / "store"), str(output)) for rank, output in enumerate(outputs)
    ]
    for child in children:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    queue_and_gradient(0, 1, "", str(tmp_path / "alone"))
    alone, *both = (torch.load(path, weights_only=True) for path in (tmp_path / "alone", *outputs))
    for found in both:
        assert torch.equal(found["rows"], alone["rows"])
        torch.testing.assert_close(found["gradient"], alone["gradient"], rtol=1e-10, atol=1e-12)
