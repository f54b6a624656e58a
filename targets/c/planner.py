"""Where in the arena every buffer goes: buffers whose lifetimes overlap must not share bytes.

Offline, so it may try more than one order: first fit by size, by area (size times lifetime), by birth and by
what the fullest operator holds, then a short deterministic search that swaps two buffers of the best order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEARCH_STEPS = 400
SEARCH_COST = 400_000  # steps times pairs of buffers: bounds the time of a search to about a second


@dataclass(frozen=True)
class Buffer:
    """`size` bytes that live from the start of operator `first` to the end of operator `last`."""

    size: int
    first: int
    last: int
    alignment: int = 4

    def overlaps(self, other: Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """An offset per buffer. `lower_bound`: bytes of the largest set that lives at one time; no plan is below it."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound: int


def plan(buffers: Sequence[Buffer]) -> Plan:
    """The smallest arena found."""
    bound = lower_bound(buffers)
    best_order, best = min(
        ((order, _place(buffers, order)) for order in _orders(buffers)), key=lambda found: _end(buffers, found[1])
    )
    steps = min(SEARCH_STEPS, SEARCH_COST // max(1, len(buffers) ** 2))
    rng = np.random.default_rng(0)
    for _ in range(steps if len(buffers) > 2 else 0):
        if _end(buffers, best) <= bound:
            break
        i, j = rng.choice(len(buffers), 2, replace=False)
        order = list(best_order)
        order[i], order[j] = order[j], order[i]
        offsets = _place(buffers, order)
        if _end(buffers, offsets) <= _end(buffers, best):
            best_order, best = order, offsets
    return Plan(tuple(best), _end(buffers, best), bound)


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Bytes of the largest set of buffers that live at one time."""
    times = {buffer.first for buffer in buffers}
    return max((_held(buffers, time) for time in times), default=0)


def _held(buffers: Sequence[Buffer], time: int) -> int:
    return sum(buffer.size for buffer in buffers if buffer.first <= time <= buffer.last)


def _orders(buffers: Sequence[Buffer]) -> list[list[int]]:
    ids = range(len(buffers))
    fullest = [max(_held(buffers, t) for t in {b.first, b.last}) for b in buffers]
    return [
        sorted(ids, key=lambda i: (-buffers[i].size, buffers[i].first)),
        sorted(ids, key=lambda i: (-buffers[i].size * (buffers[i].last - buffers[i].first + 1), buffers[i].first)),
        sorted(ids, key=lambda i: (buffers[i].first, -buffers[i].size)),
        sorted(ids, key=lambda i: (-fullest[i], -buffers[i].size)),
        sorted(ids, key=lambda i: (-(buffers[i].last - buffers[i].first), -buffers[i].size)),
    ]


def _place(buffers: Sequence[Buffer], order: Sequence[int]) -> list[int]:
    """First fit: each buffer, in order, at the lowest offset that nothing placed before takes during its life."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for i in order:
        taken = sorted((offsets[j], offsets[j] + buffers[j].size) for j in placed if buffers[i].overlaps(buffers[j]))
        offset = 0
        for start, end in taken:
            if offset + buffers[i].size <= start:
                break
            offset = max(offset, -(-end // buffers[i].alignment) * buffers[i].alignment)
        offsets[i] = offset
        placed.append(i)
    return offsets


def _end(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    return max((offset + buffer.size for offset, buffer in zip(offsets, buffers, strict=True)), default=0)
