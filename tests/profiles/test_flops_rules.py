"""The formulas against brute force."""

from __future__ import annotations

import itertools
from math import prod

import pytest

from profiles.flops_rules import attention_macs, broadcast, einsum_macs, matmul_macs, recurrent_macs


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], 24),
        ("ij,jk", [(2, 3), (3, 4)], 24),  # implicit result
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], 2 * 3 * 4 * 6 * 5),
        ("...ij,...jk->...ik", [(7, 2, 3), (7, 3, 4)], 7 * 24),
        ("...ij,...jk->...ik", [(7, 2, 3), (1, 3, 4)], 7 * 24),  # the ellipsis broadcasts
        ("i,i->", [(9,), (9,)], 9),
        ("i,j->ij", [(3,), (4,)], 0),  # a product without a sum
        ("bi,bi->bi", [(3, 4), (3, 4)], 0),
        ("ij->ji", [(3, 4)], 0),
        ("ij->", [(3, 4)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),  # from left to right
        ("ij,kl->ik", [(2, 3), (4, 5)], 0),  # j and l are summed before they meet; an outer product is left
        ("abc,cd->ad", [(2, 3, 4), (4, 5)], 2 * 4 * 5),  # b is summed first
    ],
)
def test_einsum_macs_by_hand(equation, shapes, macs):
    assert einsum_macs(equation, shapes) == macs


def test_einsum_with_a_wrong_number_of_operands_is_refused():
    with pytest.raises(ValueError, match="2 operands"):
        einsum_macs("ij,jk->ik", [(2, 3)])


def _multiplications(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Count the multiplications of a naive matrix product one by one."""
    np = pytest.importorskip("numpy")
    left = np.zeros(a if len(a) > 1 else (1, *a))
    right = np.zeros(b if len(b) > 1 else (*b, 1))
    out = np.matmul(left, right)
    return sum(left.shape[-1] for _ in itertools.product(*map(range, out.shape)))


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,))],
)
def test_matmul_macs_are_the_multiplications_of_the_naive_loop(a, b):
    assert matmul_macs(a, b) == _multiplications(a, b)


def test_matmul_of_shapes_that_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="cannot be multiplied"):
        matmul_macs((2, 3), (4, 5))


def test_attention_with_shared_heads_costs_as_much_as_without():
    assert attention_macs((1, 8, 10, 16), (1, 2, 10, 16), (1, 2, 10, 16)) == 2 * 8 * 10 * 10 * 16


def test_recurrent_macs_leave_biases_out():
    assert recurrent_macs(10, [(12, 3), (12, 4), (12,), (12,)]) == 10 * 12 * 7


def test_broadcast_agrees_with_numpy():
    np = pytest.importorskip("numpy")
    for shapes in [((3, 1), (4,)), ((2, 1, 5), (3, 1)), ((), (2,)), ((0,), (1,))]:
        assert broadcast(*shapes) == np.broadcast_shapes(*shapes)
        assert prod(broadcast(*shapes)) == np.broadcast(*(np.zeros(shape) for shape in shapes)).size
    with pytest.raises(ValueError, match="broadcast"):
        broadcast((2,), (3,))
