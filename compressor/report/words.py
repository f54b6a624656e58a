"""Numbers as people read them: three significant digits, a unit, and "not measured" where there is no number."""

from __future__ import annotations

import math

from profiles.results import Cost

NOT_MEASURED = "not measured"
NBSP = "\u00a0"  # keeps a number and its unit on one line
MINUS = "\u2212"


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, all those before the point, and no exponent.

    >>> significant(0.084512), significant(12.3456), significant(20049)
    ('0.0845', '12.3', '20049')
    """
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    rounded = round(value, decimals)
    if decimals and math.floor(math.log10(abs(rounded))) > math.floor(math.log10(abs(value))):
        decimals -= 1  # 9.996 has become 10.0
    return f"{rounded:.{decimals}f}"


def _scaled(value: float, units: tuple[str, ...], step: float = 1000.0) -> str:
    index = 0
    while abs(value) >= step * 0.9995 and index < len(units) - 1:  # 999.6 k reads as 1.00 M
        value /= step
        index += 1
    text = str(round(value)) if index == 0 and float(value).is_integer() else significant(value)
    return f"{text}{NBSP}{units[index]}" if units[index] else text


def count(value: float | None) -> str:
    """A count (MACs, parameters, instructions) with k, M, G, T.

    >>> count(2_340_000).replace(NBSP, " "), count(17), count(None)
    ('2.34 M', '17', 'not measured')
    """
    return NOT_MEASURED if value is None else _scaled(value, ("", "k", "M", "G", "T"))


def size(value: float | None) -> str:
    """Bytes in decimal units: 1 kB is 1000 B."""
    return NOT_MEASURED if value is None else _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def milliseconds(value: float | None) -> str:
    """A time given in milliseconds, without its unit."""
    return NOT_MEASURED if value is None else significant(value)


def score(value: float | None) -> str:
    """A task metric: three decimals below ten, else three significant digits."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3f}" if abs(value) < 10 else significant(value)


def difference(value: float | None) -> str:
    """A signed difference of two metrics, with a true minus sign.

    >>> difference(0.0214), difference(-0.0004), difference(-0.1)
    ('+0.021', '±0.000', '−0.100')
    """
    if value is None:
        return NOT_MEASURED
    text = f"{abs(value):.3f}" if abs(value) < 10 else significant(abs(value))
    if float(text) == 0:
        return f"±{text}"
    return f"{'+' if value > 0 else MINUS}{text}"


def fraction(part: float, whole: float) -> str:
    """How much of `whole` `part` is: "1/153", "1/3.4", "0.83 ×", "2.4 ×".

    >>> fraction(2.34e6, 358e6), fraction(1, 3.4), fraction(2.4, 1).replace(NBSP, " ")
    ('1/153', '1/3.4', '2.4 ×')
    """
    inverse = whole / part
    if inverse >= 9.95:
        return f"1/{round(inverse):,}"
    if inverse >= 1.95:
        return f"1/{inverse:.1f}"
    return f"{significant(part / whole, 2)}{NBSP}×"


def percent(share: float, decimals: int = 0) -> str:
    return f"{100 * share:.{decimals}f}{NBSP}%"


def shape(dimensions: list[int] | tuple[int | str, ...] | None) -> str:
    """`[1, 3, 32, 32]` as "1×3×32×32"."""
    return "×".join(str(d) for d in dimensions) if dimensions else ""


def cost_kind(cost: Cost) -> str:
    """
    >>> cost_kind(Cost(kind="npu_cycles", value=1, source="estimated"))
    'NPU cycles (estimated)'
    """
    name = {"instructions": "instructions", "npu_cycles": "NPU cycles"}[cost.kind]
    return name if cost.source == "counted" else f"{name} ({cost.source})"
