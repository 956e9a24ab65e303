"""The judge watch's alarms: which there are, what they say, and when they were on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

AlarmKind = Literal["drift", "divergence", "constant", "repeat"]
ALARM_KINDS: tuple[AlarmKind, ...] = get_args(AlarmKind)
TITLES: Mapping[AlarmKind, str] = {
    "drift": "the judge drifts",
    "divergence": "the reward rises while the held-out judge falls",
    "constant": "the pictures are nearly one picture",
    "repeat": "pictures repeat over prompts",
}
_FIGURES: Mapping[AlarmKind, Sequence[tuple[str, str, str]]] = {
    "drift": (
        ("watch/canary_accuracy", ".1%", "accuracy"),
        ("watch/canary_error", ".3f", "mean |P(yes) - answer|"),
        ("watch/canary_change", ".3f", "mean change of P(yes)"),
        ("watch/canary_drift", ".3f", "drift"),
    ),
    "divergence": (
        ("watch/heldout_fall", ".3f", "fall of the held-out figure in the window"),
        ("watch/heldout_fall_p", ".1e", "chance of it without a trend"),
        ("watch/reward_rise_p", ".1e", "of the reward's rise"),
    ),
    "constant": (
        ("watch/same_share", ".1%", "share of the commonest picture"),
        ("watch/flat_share", ".1%", "share of pictures of one colour"),
        ("watch/picture_spread", ".4f", "spread of the pictures"),
    ),
    "repeat": (("watch/repeat_share", ".1%", "share drawn for another prompt too"),),
}
"""By kind: key in a step's metrics, its form, its name."""


def alarm_key(kind: AlarmKind) -> str:
    """The key in a step's metrics: 1 while the alarm is on, 0 while it is not."""
    return f"watch/alarm_{kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One stretch of steps over which an alarm was on."""

    kind: AlarmKind
    begun: int
    """The first step."""
    ended: int | None
    """The first step at which it was off again; None while it is on."""
    figures: str
    """Those of the first step."""

    @property
    def text(self) -> str:
        """One sentence, without a full stop."""
        until = "" if self.ended is None else f" until step {self.ended}"
        said = f" ({self.figures})" if self.figures else ""
        return f"{TITLES[self.kind]}, since step {self.begun}{until}{said}"


def figures_of(kind: AlarmKind, metrics: Mapping[str, Any]) -> str:
    """What a step's metrics say of an alarm."""
    parts = (
        f"{name} {format(metrics[key], form)}"
        for key, form, name in _FIGURES[kind]
        if metrics.get(key) is not None
    )
    return ", ".join(parts)


def alarms(metrics: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """All alarms of a run in the order in which they began, from the lines of its metrics."""
    found = []
    for kind in ALARM_KINDS:
        begun: Mapping[str, Any] | None = None
        for line in metrics:
            state = line.get(alarm_key(kind))
            if state and begun is None:
                begun = line
            elif state is not None and not state and begun is not None:
                found.append(_alarm(kind, begun, int(line["step"])))
                begun = None
        if begun is not None:
            found.append(_alarm(kind, begun, None))
    return sorted(found, key=lambda alarm: alarm.begun)


def _alarm(kind: AlarmKind, begun: Mapping[str, Any], ended: int | None) -> Alarm:
    figures = figures_of(kind, begun)
    return Alarm(kind=kind, begun=int(begun["step"]), ended=ended, figures=figures)
