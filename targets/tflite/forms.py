"""Values that a rewrite holds in another form than their own until an operator needs them. Shapes stand behind the
names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Line:
    """(N, C, L), held as `value` (N, C, 1, L)."""

    value: Any

    def force(self) -> Any:
        return self.value.squeeze(2)

    def with_value(self, value: Any) -> Line:
        return Line(value)


@dataclass(frozen=True, eq=False)
class Frames:
    """(N, C, T, H, W), held as `value` (N * T, C, H, W)."""

    value: Any
    rows: int

    def force(self) -> Any:
        return self.unstacked().transpose(1, 2)

    def unstacked(self) -> Any:
        """(N, T, C, H, W)."""
        return self.value.reshape(self.rows, -1, *self.value.shape[1:])

    def with_value(self, value: Any) -> Frames:
        return Frames(value, self.rows)


@dataclass(frozen=True, eq=False)
class Turned:
    """(N, C, L), held as `value` (N, L, C): what a layer over L makes of channels-last input."""

    value: Any

    def force(self) -> Any:
        return self.value.transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Norm:
    """max(|value|_2 over `axes`, floor), the axes kept."""

    value: Any
    axes: tuple[int, ...]
    floor: float = 0.0

    def squared(self) -> Any:
        return (self.value * self.value).sum(self.axes, keepdim=True)

    def force(self) -> Any:
        norm = self.squared().sqrt()
        return norm.clamp_min(self.floor) if self.floor else norm


@dataclass(frozen=True, eq=False)
class Root:
    """sqrt(value)."""

    value: Any

    def force(self) -> Any:
        return self.value.sqrt()


def rank_of(value: Any) -> int:
    if isinstance(value, (Line, Turned)):
        return 3
    return 5 if isinstance(value, Frames) else int(getattr(getattr(value, "value", value), "ndim", 0))


def axes_of(axes: Any, rank: int) -> list[int]:
    return sorted(axis % rank for axis in ([axes] if isinstance(axes, int) else axes or range(rank)))
