"""How often the oracle is right, measured on pictures whose truth is known, per question type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alphagrpo.shapes.grammar import QUALITY_TEXT, Reading, parse_question
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.prompts import sample_wording
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import sample_scene, sample_spec
from alphagrpo.shapes.world import Scene, pick
from miniature.corrupt import CORRUPTIONS, corrupt

_CHUNK = 250
OVERALL = "overall"


class Tally(NamedTuple):
    """Answers of one question type: how many, how many of them right, how many in truth yes."""

    asked: int = 0
    right: int = 0
    yes: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN where nothing was asked."""
        return self.right / self.asked if self.asked else float("nan")

    def add(self, got: bool, truth: bool) -> Tally:
        """The tally with one answer more."""
        return Tally(self.asked + 1, self.right + (got == truth), self.yes + truth)


def _questions(
    scene: Scene, own: list[str], rng: np.random.Generator
) -> Iterator[tuple[str, bool]]:
    """The questions of the scene's own prompt and of two others, with their true answers."""
    others = [q.text for _ in range(2) for q in reference_questions(sample_spec(rng))]
    truth = Reading.of_scene(scene)
    for text in [*own, *others]:
        yield text, parse_question(text).holds(truth)


def check_oracle(n: int, seed: int) -> dict[str, Tally]:
    """The oracle's tally per question type on ``n`` clean renders, and over all of them.

    Each picture gets the questions of its own prompt (the truth is yes) and of two other prompts
    (mostly no). As a clean render never answers a quality question with no, as many pictures again
    with a flaw at full severity are asked about the types it spoils.
    """
    rng = np.random.default_rng([seed, 7])
    tallies: dict[str, Tally] = defaultdict(Tally)
    for start in range(0, n, _CHUNK):
        size = min(_CHUNK, n - start)
        specs = [sample_wording("plain", rng).spec for _ in range(size)]
        scenes = [sample_scene(spec, rng) for spec in specs]
        readings = read_many(np.stack([render(scene) for scene in scenes]))
        for spec, scene, reading in zip(specs, scenes, readings, strict=True):
            own = [q.text for q in reference_questions(spec)]
            for text, truth in _questions(scene, own, rng):
                predicate = parse_question(text)
                got = predicate.holds(reading)
                tallies[predicate.type] = tallies[predicate.type].add(got, truth)
        _add_flawed(scenes, tallies, rng)
    overall = Tally(*(sum(column) for column in zip(*tallies.values(), strict=True)))
    return {**dict(sorted(tallies.items())), OVERALL: overall}


def _add_flawed(scenes: list[Scene], tallies: dict[str, Tally], rng: np.random.Generator) -> None:
    names = [pick(rng, tuple(CORRUPTIONS)) for _ in scenes]
    pictures = [corrupt(scene, name, 1.0, rng) for scene, name in zip(scenes, names, strict=True)]
    for name, reading in zip(names, read_many(np.stack(pictures)), strict=True):
        for type_ in CORRUPTIONS[name].spoils:
            got = parse_question(QUALITY_TEXT[type_]).holds(reading)
            tallies[type_] = tallies[type_].add(got, False)
