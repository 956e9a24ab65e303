"""What is walked (:mod:`benchmarks.walk`): which machines, which services, which run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POOLS = ("head", "learner", "rollout", "verifier")
WHOLE = {"learner": "learner", "weights": "learner", "rollout": "rollout"}
"""Role of an actor to the pool it is placed in."""


class WalkFailed(Exception):
    """A step is not as the README says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is walked."""

    pools: tuple[str, ...] = POOLS
    """One node each; the first is the head."""
    placement: Mapping[str, str] = field(default_factory=lambda: dict(WHOLE))
    services: Mapping[str, Any]
    """The Serve config, but for port and pools."""
    service_pools: Mapping[str, str] = field(
        default_factory=lambda: {"decomposer": "verifier", "verifier": "verifier"}
    )
    run: Mapping[str, Any]
    """The run config over ``smoke.yaml``."""
    pythonpath: str = ""
    """Of the nodes, for stand-ins that are not installed there."""
    is_whole: bool = True
    """Also try what must be refused, and a laptop without a cluster."""


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the table."""

    step: str
    seconds: float
    seen: str
