"""Which nodes of a cluster a run's processes may start on, and how long they may wait for one."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from alphagrpo.config.sampling import Section

NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
"""What Ray and Kubernetes allow as the name of a label, and as its value."""
_KEY = re.compile(rf"([A-Za-z0-9.-]{{1,253}}/)?{NAME}")
_CONDITION = re.compile(rf"!?({NAME}|in\({NAME}(,{NAME})*\))")
"""Without spaces: Ray 2.60 takes one after a comma for a part of the value, which no node has."""


def check_selector(selector: dict[str, str]) -> dict[str, str]:
    """The selector as it is; ValueError for a key or a condition that Ray would refuse."""
    for key, condition in selector.items():
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"the key of a node label must be letters, digits, '-', '_' and '.', at most 63, "
                f"got {key!r}; write for example mesh.pool"
            )
        if not _CONDITION.fullmatch(condition):
            raise ValueError(
                "a label's condition must read value, !value, in(a,b) or !in(a,b), without spaces, "
                f"got {condition!r} for {key}; write for example {key}: learner"
            )
    return selector


LabelSelector = Annotated[dict[str, str], AfterValidator(check_selector)]
"""Key of a node label to its condition, all of which must hold: a Ray label selector."""


class PlacementConfig(Section):
    """Nodes by their labels (``ray start --labels mesh.pool=learner``); without any, anywhere."""

    learner: LabelSelector = Field(default_factory=dict)
    rollout: LabelSelector = Field(default_factory=dict)
    weights: LabelSelector | None = None
    """Of the weight registry, which must outlive any runner: keep it off nodes that may be
    preempted. None: where the learner may be, or where no selector says that, beside the driver.
    """
    deadline_s: float = Field(1800.0, gt=0)
    """Seconds until every process has a node and has loaded its model, at the start and again
    after a death: time for a cluster to grow.
    """

    @property
    def registry(self) -> LabelSelector:
        """The weight registry's selector."""
        return self.learner if self.weights is None else self.weights
