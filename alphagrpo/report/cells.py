"""How figures are written in tables, on pages and in terminals; a dash where there is none."""

from __future__ import annotations

ABSENT = "-"


def share_cell(value: float | None) -> str:
    """A share as per cent, such as ``12.5%``."""
    return ABSENT if value is None else f"{value:.1%}"


def points_cell(value: float | None) -> str:
    """A difference of shares in points of a hundred with its sign, such as ``+3.1``."""
    return ABSENT if value is None else f"{100 * value:+.1f}"


def interval_cell(low: float, high: float) -> str:
    """Both ends of a difference's interval in points, such as ``-0.4 to +6.6``."""
    return f"{points_cell(low)} to {points_cell(high)}"


def ratio_cell(value: float | None) -> str:
    """A |log ratio| to two digits, such as ``2.5e-07``; ``0`` is exactly that."""
    return ABSENT if value is None else f"{value:.1e}" if value else "0"


def reward_cell(value: float | None) -> str:
    """A reward to three digits."""
    return ABSENT if value is None else f"{value:.3f}"


def seconds_cell(value: float | None) -> str:
    """Seconds, of three digits or so: ``0.85 s``, ``35.0 s``, ``17.0 min``, ``4.9 h``."""
    if value is None:
        return ABSENT
    for unit, length in (("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return f"{value / length:.1f} {unit}"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
