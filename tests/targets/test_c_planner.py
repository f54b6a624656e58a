"""The arena: no two living buffers share a byte, and little is wasted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from targets.c.planner import Buffer, lower_bound, plan

buffers = st.builds(
    lambda size, first, length, alignment: Buffer(size, first, first + length, alignment),
    st.integers(1, 300), st.integers(-1, 20), st.integers(0, 8), st.sampled_from((1, 4, 8)),
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(buffers, max_size=14))
def test_living_buffers_do_not_overlap_and_are_aligned(items: list[Buffer]) -> None:
    found = plan(items)
    assert found.lower_bound <= found.arena_bytes
    for i, a in enumerate(items):
        assert found.offsets[i] % a.alignment == 0 and found.offsets[i] + a.size <= found.arena_bytes
        for j, b in enumerate(items[:i]):
            apart = found.offsets[i] + a.size <= found.offsets[j] or found.offsets[j] + b.size <= found.offsets[i]
            assert apart or a.last < b.first or b.last < a.first


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = (64, 256, 128, 512, 32)
    chain = [Buffer(size, i - 1, i) for i, size in enumerate(sizes)]
    assert lower_bound(chain) == plan(chain).arena_bytes == 128 + 512


def test_first_fit_by_size_alone_would_waste_memory_here() -> None:
    """A small buffer that outlives the large ones must not sit between them (lifetimes as in Pisarchyk, Lee,
    arXiv:2001.03288)."""
    items = [Buffer(100, 0, 1), Buffer(40, 1, 4), Buffer(60, 2, 3), Buffer(100, 3, 4), Buffer(40, 0, 0)]
    assert plan(items).arena_bytes == lower_bound(items) == 200


def test_nothing_needs_nothing() -> None:
    assert plan([]).arena_bytes == 0
