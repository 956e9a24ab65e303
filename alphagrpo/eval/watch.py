"""The judge watch: from what a step shows to figures, and from figures to alarms.

Nothing here asks anybody: whoever drives a run asks the judges and hands over what they said.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from alphagrpo.errors import BadImage
from alphagrpo.eval.alarms import ALARM_KINDS, AlarmKind, alarm_key
from alphagrpo.eval.figures import heldout_key
from alphagrpo.eval.probe import PROMPT_SET
from alphagrpo.eval.trend import Divergence, divergence
from alphagrpo.images import decode_image
from alphagrpo.types import SORTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alphagrpo.config.watch import WatchConfig
    from alphagrpo.eval.canary import CanaryFigures
    from alphagrpo.ports import GroupReport, Sample

MAX_LOOKED_AT = 64
"""Kept pictures of a step that are decoded, or shown to a second verifier, evenly over groups."""
FLAT = 0.01
"""A picture is of one colour where no channel's standard deviation is above this, white being 1."""

Figures = dict[str, float]


def canary_metrics(figures: CanaryFigures | None, of: int) -> Figures:
    """A canary's figures as metrics of a step; without any only that nobody answered."""
    if figures is None:
        return {"watch/canary_unanswered": float(of)}
    return {
        "watch/canary_accuracy": figures.accuracy,
        "watch/canary_error": figures.error,
        "watch/canary_change": figures.change,
        "watch/canary_drift": figures.drift,
        "watch/canary_unanswered": float(figures.of - figures.answered),
    }


def kept_samples(groups: Iterable[GroupReport]) -> list[tuple[GroupReport, Sample]]:
    """Samples whose pictures are at hand: the first of each group, the second of each, and on."""
    kept = [[(group, one) for one in group.samples if one.png is not None] for group in groups]
    turns = (pairs[i] for i in range(max(map(len, kept), default=0)) for pairs in kept
             if i < len(pairs))  # fmt: skip
    return list(islice(turns, MAX_LOOKED_AT))


class PictureWatch:
    """Looks for a constant picture, and for pictures that were drawn for other prompts too."""

    def __init__(self, repeat_steps: int) -> None:
        self._earlier: deque[list[tuple[str, str]]] = deque(maxlen=repeat_steps)

    def look(self, groups: Sequence[GroupReport]) -> Figures:
        """The step's figures; without hashes, or without kept pictures, it lacks some."""
        drawn = [
            (sample.picture_hash, group.job.prompt.id)
            for group in groups
            for sample in group.samples
            if sample.picture_hash
        ]
        figures: Figures = {}
        if drawn:
            commonest = Counter(name for name, _ in drawn).most_common(1)[0][1]
            figures["watch/same_share"] = commonest / len(drawn)
            figures["watch/repeat_share"] = self._repeat_share(drawn)
        return figures | _looks_alike(groups)

    def _repeat_share(self, drawn: list[tuple[str, str]]) -> float:
        prompts: dict[str, set[str]] = {}
        for pairs in (*self._earlier, drawn):
            for name, prompt in pairs:
                prompts.setdefault(name, set()).add(prompt)
        self._earlier.append(drawn)
        return sum(len(prompts[name]) > 1 for name, _ in drawn) / len(drawn)


def _looks_alike(groups: Sequence[GroupReport]) -> Figures:
    """Of the kept pictures: the share of those of one colour, and how far all lie apart."""
    kept = kept_samples(groups)
    pictures = [(group.job.prompt.id, _decoded(sample)) for group, sample in kept]
    known = [(prompt, pixels) for prompt, pixels in pictures if pixels is not None]
    if not known:
        return {}
    flat = [bool(pixels.std(axis=(0, 1)).max() < FLAT) for _, pixels in known]
    figures = {"watch/flat_share": sum(flat) / len(flat)}
    sizes = {pixels.shape for _, pixels in known}
    if len({prompt for prompt, _ in known}) > 1 and len(sizes) == 1:
        spread = np.stack([pixels for _, pixels in known]).std(axis=0).mean()
        figures["watch/picture_spread"] = float(spread)
    return figures


def _decoded(sample: Sample) -> NDArray[np.float32] | None:
    """[H, W, 3] in [0, 1]."""
    try:
        pixels = decode_image(sample.png or b"")
    except BadImage:
        return None
    return np.divide(pixels, 255, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Changes:
    """Alarms that have begun or ended with a step."""

    begun: tuple[AlarmKind, ...]
    ended: tuple[AlarmKind, ...]


class JudgeWatch:
    """Which alarms are on; a step's metrics in, alarm flags out.

    What it knows of earlier steps it takes from their metrics, so that a resumed run goes on.
    """

    def __init__(self, settings: WatchConfig, metrics: Sequence[Mapping[str, Any]] = ()) -> None:
        self._settings = settings
        self._looks: deque[tuple[float, float]] = deque(maxlen=settings.window)
        self._rewards: list[float] = []
        self._prompt_set: Any = None
        self._on: dict[AlarmKind, bool] = {}
        for line in metrics:
            self._take(line)
            for kind in ALARM_KINDS:
                if line.get(alarm_key(kind)) is not None:
                    self._on[kind] = bool(line[alarm_key(kind)])

    def observe(self, metrics: Mapping[str, Any]) -> tuple[Figures, Changes]:
        """Flags of all alarms that can be told so far, and which of them have changed.

        ``metrics`` are all of the step's, those of probe and watch included.
        """
        figures: Figures = {}
        states = self._bounds(metrics)
        if self._take(metrics) and len(self._looks) == self._settings.window:
            trends = divergence(*zip(*self._looks, strict=True))
            already = self._on.get("divergence", False)
            states["divergence"] = trends.holds(min_fall=self._settings.min_fall, already=already)
            figures = trend_metrics(trends)
        begun, ended = [], []
        for kind in ALARM_KINDS:
            if kind not in states:
                continue
            if states[kind] and not self._on.get(kind):
                begun.append(kind)
            elif self._on.get(kind) and not states[kind]:
                ended.append(kind)
            self._on[kind] = states[kind]
        figures |= {alarm_key(kind): float(on) for kind, on in self._on.items()}
        return figures, Changes(tuple(begun), tuple(ended))

    def _bounds(self, metrics: Mapping[str, Any]) -> dict[AlarmKind, bool]:
        """The alarms that are a figure beyond its bound; none whose figures are not there."""
        settings = self._settings
        states: dict[AlarmKind, bool] = {}
        if (drift := metrics.get("watch/canary_drift")) is not None:
            states["drift"] = drift > settings.max_drift
        same, flat = metrics.get("watch/same_share"), metrics.get("watch/flat_share")
        if same is not None:
            spread = metrics.get("watch/picture_spread")
            alike = max(same, flat or 0.0) > settings.max_same_share
            alike |= spread is not None and spread < settings.min_spread
            # Kept pictures are looked at in some steps only; what they showed lasts until the next.
            if alike or flat is not None or not self._on.get("constant"):
                states["constant"] = alike
        if (repeat := metrics.get("watch/repeat_share")) is not None:
            states["repeat"] = repeat > settings.max_repeat_share
        return states

    def _take(self, metrics: Mapping[str, Any]) -> bool:
        """Take in a step's rewards, and whether the held-out judge has looked at it."""
        if metrics.get("reward/score") is not None:
            self._rewards.append(metrics["reward/score"])
        if metrics.get("watch/heldout_score") is not None:
            self._looks.append((metrics["watch/heldout_reward"], metrics["watch/heldout_score"]))
            return True
        oracle = [metrics.get(heldout_key(sort, "per_question")) for sort in SORTS]
        known = [value for value in oracle if value is not None]
        if self._settings.heldout_app is not None or not known or not self._rewards:
            return False
        if metrics.get(PROMPT_SET) != self._prompt_set:
            self._prompt_set = metrics.get(PROMPT_SET)
            self._looks.clear()
        self._looks.append((statistics.fmean(self._rewards), statistics.fmean(known)))
        self._rewards.clear()
        return True


def trend_metrics(trends: Divergence) -> Figures:
    """What a look at the held-out judge shows of both trends."""
    return {
        "watch/heldout_fall": trends.fall,
        "watch/heldout_fall_p": trends.fall_p,
        "watch/reward_rise_p": trends.rise_p,
    }
