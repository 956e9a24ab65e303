"""The format bonus of reasoning text-to-image."""

from __future__ import annotations

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


def format_bonus(text: str) -> float:
    """1.0 if ``text`` starts with ``<think>`` and ends with ``</think>``, else 0.0.

    Added to the reward with weight 1, so that rewards range over [0, 2] (method: section 1.2,
    "Reward fed to the advantage"). Surrounding white space counts as other text.
    """
    return float(text.startswith(THINK_OPEN) and text.endswith(THINK_CLOSE))
