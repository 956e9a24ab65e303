"""Where every random number of a run comes from.

A sample's random numbers depend on (run seed, prompt, visit, sample) and on nothing else: not on
which worker samples it, how often it is retried, or how many workers there are.
"""

from __future__ import annotations

import hashlib

SEED_BITS = 31
"""Seeds are non-negative and fit a signed 32-bit integer: Triton's Philox takes its key as such."""


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^31) from any mix of numbers and names, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - SEED_BITS)


def group_seed(run_seed: int, prompt_id: str, visit: int) -> int:
    """What all members of a group share: the SDE window and, if asked, the start noise."""
    return derive("group", run_seed, prompt_id, visit)


def sample_seed(run_seed: int, prompt_id: str, visit: int, sample: int) -> int:
    """Seed of one sample: its thought and its SDE noise."""
    return derive("sample", run_seed, prompt_id, visit, sample)
