"""Whether two runs gave the same bits: rewards step by step, and the weights at the end.

::

    python -m benchmarks.fingerprint runs/before runs/after

A change that is only structure leaves both columns alike. Exit code 1 where two runs differ.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from alphagrpo.record.folder import RunFolder
from alphagrpo.record.ledger import SKIPPED
from benchmarks.tables import markdown

SampleKey = tuple[int, str, int]
"""Group, stage (draft or sample) and place of a sample in its step."""


def fingerprint(folder: RunFolder) -> dict[str, str]:
    """A hash per step over its rewards as the ledger holds them, and the weights' checksum."""
    figures = {}
    for line in folder.metrics():
        step = int(line["step"])
        rewards: dict[SampleKey, float | None] = {
            (row["group"], row["stage"], row["sample"]): row["reward"]
            for row in folder.ledger(step)
            if row["stage"] != SKIPPED
        }
        text = "\n".join(f"{key} {_bits(rewards[key])}" for key in sorted(rewards))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        figures[f"rewards of step {step} ({len(rewards)})"] = digest
    weights = folder.summary().weights
    figures["weights"] = f"{weights.version}: {str(weights.checksum)[:16]}"
    return figures


def _bits(reward: float | None) -> str:
    return "none" if reward is None else float(reward).hex()


def table(figures: Sequence[dict[str, str]], names: Sequence[str]) -> str:
    """A row per figure, a column per run; a figure that a run lacks is a dash."""
    keys = list(dict.fromkeys(key for run in figures for key in run))
    rows = [[key, *(run.get(key, "-") for run in figures)] for key in keys]
    return markdown(["", *names], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where two runs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    args = parser.parse_args(arguments)
    figures = [fingerprint(RunFolder.open(path)) for path in args.runs]
    print(table(figures, [str(path) for path in args.runs]))
    same = all(run == figures[0] for run in figures)
    if len(figures) > 1:
        print("the same bits" if same else "different")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
