"""Whether a run that was disturbed is the run that was not."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphagrpo.record.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both runs compared."""

    steps: int
    groups: int
    """Trained on by the run that was left alone."""
    lost: int
    """Of those, by the other one never."""
    twice: int
    """By the other one more often."""
    same_ledger: bool
    """Every row: prompts, thoughts, pictures, verdicts, rewards, advantages."""
    same_weights: bool

    @property
    def holds(self) -> bool:
        """Nothing lost, nothing trained twice, nothing different."""
        return not (self.lost or self.twice) and self.same_ledger and self.same_weights


def compare(calm: Path, rough: Path) -> Verdict:
    """The finished run that was left alone, and the one that was not."""
    of_calm, of_rough = RunFolder(calm), RunFolder(rough)
    expected, got = _groups(of_calm), _groups(of_rough)
    return Verdict(
        steps=len(of_calm.ledger_steps()),
        groups=expected.total(),
        lost=(expected - got).total(),
        twice=(got - expected).total(),
        same_ledger=ledger_digest(of_calm) == ledger_digest(of_rough),
        same_weights=_weights(of_calm) == _weights(of_rough),
    )


def ledger_digest(folder: RunFolder) -> str:
    """Of all rows in their order, but for the run's name."""
    digest = hashlib.sha256()
    for step in folder.ledger_steps():
        for row in folder.ledger(step):
            record: dict[str, Any] = {**row, "run": ""}
            digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _groups(folder: RunFolder) -> Counter[str]:
    """How often each prompt was trained on, as the ledger has it."""
    found: Counter[str] = Counter()
    for step in folder.ledger_steps():
        trained = {
            (row["group"], row["prompt_id"])
            for row in folder.ledger(step)
            if row["advantage"] is not None
        }
        found.update(prompt for _, prompt in trained)
    return found


def _weights(folder: RunFolder) -> tuple[int | None, str | None]:
    published = folder.summary().weights
    return (published.version, published.checksum) if published else (None, None)
