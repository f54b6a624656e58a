"""Where in the arena every buffer goes: buffers whose lifetimes overlap must not share bytes.

Offline, so it may try more than one order: first fit by size, by area (size times lifetime), by birth and by
what the fullest operator holds, then a short deterministic search that swaps two buffers of the best order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEARCH_STEPS = 400
SEARCH_COST = 200_000  # steps times pairs of buffers: bounds the time of a search to about a second


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
    ids = range(len(buffers))
    neighbours = [[j for j in ids if j != i and buffers[i].overlaps(buffers[j])] for i in ids]

    def place(order: Sequence[int]) -> tuple[int, Sequence[int], list[int]]:
        offsets = _place(buffers, order, neighbours)
        return max((offsets[i] + buffers[i].size for i in ids), default=0), order, offsets

    size, order, offsets = min(map(place, _orders(buffers)), key=lambda found: found[0])
    steps = min(SEARCH_STEPS, SEARCH_COST // max(1, len(buffers) ** 2)) if len(buffers) > 2 else 0
    rng = np.random.default_rng(0)
    for _ in range(steps):
        if size <= bound:
            break
        i, j = rng.choice(len(buffers), 2, replace=False)
        swapped = list(order)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        found = place(swapped)
        if found[0] <= size:
            size, order, offsets = found
    return Plan(tuple(offsets), size, bound)


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


def _place(buffers: Sequence[Buffer], order: Sequence[int], neighbours: Sequence[Sequence[int]]) -> list[int]:
    """First fit: each buffer, in order, at the lowest offset that nothing placed before takes during its life."""
    offsets = [-1] * len(buffers)
    for i in order:
        size, alignment = buffers[i].size, buffers[i].alignment
        offset = 0
        for start, end in sorted((offsets[j], offsets[j] + buffers[j].size) for j in neighbours[i] if offsets[j] >= 0):
            if offset + size <= start:
                break
            if end > offset:
                offset = -(-end // alignment) * alignment
        offsets[i] = offset
    return offsets
