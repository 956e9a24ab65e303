"""What a check found: of a machine, or of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    value: str
    verdict: Literal["ok", "note", "bad"]
    """``bad`` is what would stop a run, or is wrong in what it wrote; ``note`` is worth a look."""
    remedy: str = ""
