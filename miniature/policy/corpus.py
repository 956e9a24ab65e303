"""What the miniature policy is pre-trained on: contexts, thoughts and the pictures that follow.

Thoughts are right or wrong at the rates of :mod:`miniature.policy.beliefs`. Pictures always show
what the *thought* says, so that the picture part of the policy learns to trust its thought.

All texts are framed as BAGEL feeds them: ``<bos> ids <eos>`` per piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alphagrpo.models.unified import SpecialTokens
from alphagrpo.shapes.edits import comparison
from alphagrpo.shapes.language import SYSTEM_PROMPT, THINK_CLOSE, THINK_OPEN, describe, thought
from alphagrpo.shapes.prompts import Sort, Wording
from alphagrpo.shapes.specs import Spec, sample_scene
from alphagrpo.shapes.splits import sample_split_wording
from alphagrpo.shapes.world import Scene
from miniature.policy.beliefs import noisy_spec
from miniature.policy.changes import Change, edited, repaired, spoilt

THOUGHT_SHARE = 0.45
"""Share of prompts that need a thought, among contexts with a prompt."""
CONTEXT_MIX = (("think", 0.62), ("prompt", 0.81), ("wish", 0.84), ("system", 0.95), ("empty", 1.0))
"""Kinds of context before a picture, with cumulative shares. A wish is the request of a
comparison without a picture: the image-free branch of a guided refinement."""

CAPTION_PROMPT = "there is"
"""The request of a caption."""
THINKING = 0.65
"""Share of comparisons and edits that think."""
DROPPED = 0.1
"""Share of edits without any text, for guidance."""
UNSEEN = 0.07
"""Share of edits whose picture is dropped, for guidance."""
REQUESTS = (("own", 0.6), ("none", 0.82), ("other", 1.0))
"""What is read before the thought of an edit, cumulative: its own request, nothing, or something
else. The target follows the thought in all three; the thought is learnt in the first."""
REPAIRED = 0.6
"""Share of edits that repair a spoilt picture of a training prompt; the others are random."""

Encode = Callable[[str], list[int]]
"""A text to its token ids, without framing."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One context and pictures that fit it."""

    context: tuple[int, ...]
    """Framed ids of all pieces, one after another; empty for the empty context."""
    thought_start: int
    """Where the thought's frame begins; ``len(context)`` where there is none."""
    scenes: tuple[Scene, ...]

    @property
    def has_thought(self) -> bool:
        """Whether the context ends with a thought."""
        return self.thought_start < len(self.context)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn on a picture: texts to read after it, and the answer or picture that follows."""

    scene: Scene
    """What the picture shows."""
    system: tuple[int, ...]
    """Framed system prompt before the picture, or nothing."""
    texts: tuple[int, ...]
    """Framed ids after the picture: instruction, then the answer if there is one."""
    answer_start: int
    """Where the answer's frame begins in ``texts``; its length where there is none."""
    target: Scene | None = None
    """The edited scene to draw, or None for a turn that ends with its answer."""
    seen: bool = True
    """Whether the picture is in the context."""


def compare_prompt(caption: str) -> str:
    """The request of a comparison: say what keeps the picture from being ``caption``."""
    return f"the picture should be {caption}"


class Corpus:
    """Samples training sequences; a function of the generator that is passed.

    Example: ``Corpus(tokenizer_encode, model.special).drawing(rng, queries=4)``
    """

    def __init__(self, encode: Encode, special: SpecialTokens) -> None:
        self._encode = encode
        self._special = special
        self._system = self.framed(SYSTEM_PROMPT)

    def framed(self, text: str) -> list[int]:
        """``<bos> ids <eos>``."""
        return [self._special.text_start, *self._encode(text), self._special.text_end]

    def system(self) -> list[int]:
        """The framed system prompt."""
        return list(self._system)

    def drawing(self, rng: np.random.Generator, queries: int, kind: str | None = None) -> Drawing:
        """A random context, and ``queries`` pictures that fit it."""
        if kind is None:
            luck = rng.random()
            kind = next(name for name, edge in CONTEXT_MIX if luck < edge)
        if kind in ("system", "empty"):
            scenes = tuple(self._scene(rng) for _ in range(queries))
            ids = self.system() if kind == "system" else []
            return Drawing(tuple(ids), len(ids), scenes)
        wording, meant = self._meaning(rng)
        scenes = tuple(sample_scene(meant, rng) for _ in range(queries))
        if kind == "wish":
            ids = self.system() + self.framed(compare_prompt(wording.text))
            return Drawing(tuple(ids), len(ids), scenes)
        prompt = self.framed(wording.text)
        if kind == "prompt":
            return Drawing(tuple(prompt), len(prompt), scenes)
        before = self.system() + prompt
        ids = before + self.framed(thought(meant))
        return Drawing(tuple(ids), len(before), scenes)

    def _meaning(self, rng: np.random.Generator) -> tuple[Wording, Spec]:
        sort: Sort = "thought" if rng.random() < THOUGHT_SHARE else "plain"
        wording = sample_split_wording("train", sort, rng)
        return wording, noisy_spec(wording, rng)

    def _scene(self, rng: np.random.Generator) -> Scene:
        return sample_scene(self._meaning(rng)[1], rng)

    def caption(self, rng: np.random.Generator) -> Turn:
        """A picture of a training combination, and a full description of it."""
        scene = self._scene(rng)
        return self._turn(scene, CAPTION_PROMPT, describe(scene), False)

    def comparison(self, rng: np.random.Generator) -> Turn:
        """A picture, a plain training prompt, and what is wrong with it; some are right."""
        wording = sample_split_wording("train", "plain", rng)
        scene = spoilt(wording.spec, sample_scene(wording.spec, rng), rng)
        text, thinking = compare_prompt(wording.text), rng.random() < THINKING
        return self._turn(scene, text, comparison(wording.spec, scene), thinking)

    def edit(self, rng: np.random.Generator) -> Turn:
        """A picture and the picture after a change; most think of the change first.

        The request is never a comparison's, and neither it nor the thought holds a prompt.
        """
        change, luck = self._change(rng), rng.random()
        request = change.instruction if rng.random() < 0.7 else change.complaint
        if luck < UNSEEN:
            return self._turn(change.before, request, None, True, change.after, seen=False)
        thinking = rng.random() < THINKING
        if luck < UNSEEN + DROPPED:
            return self._turn(change.before, None, None, thinking, change.after)
        if not thinking:
            return self._turn(change.before, request, None, False, change.after)
        words = change.complaint if rng.random() < 0.65 else change.difference
        luck = rng.random()
        kind = next(name for name, edge in REQUESTS if luck < edge)
        read = {"own": request, "none": None, "other": self._other_request(rng)}[kind]
        learnt = kind == "own"
        return self._turn(change.before, read, words, True, change.after, learnt=learnt)

    def _change(self, rng: np.random.Generator) -> Change:
        if rng.random() >= REPAIRED:
            return edited(self._scene(rng), rng)
        return repaired(sample_split_wording("train", "plain", rng).spec, rng)

    def _other_request(self, rng: np.random.Generator) -> str:
        """A request that has nothing to do with the change at hand."""
        luck = rng.random()
        if luck < 0.2:
            return CAPTION_PROMPT
        return self._change(rng).instruction if luck < 0.6 else describe(self._scene(rng))

    def _turn(
        self,
        scene: Scene,
        text: str | None,
        answer: str | None,
        thinking: bool,
        target: Scene | None = None,
        *,
        learnt: bool = True,
        seen: bool = True,
    ) -> Turn:
        """With ``thinking`` the system prompt comes first and the answer stands in think tags."""
        texts = [] if text is None else self.framed(text)
        start = len(texts)
        if answer is not None:
            texts += self.framed(f"{THINK_OPEN} {answer} {THINK_CLOSE}" if thinking else answer)
        start = start if learnt else len(texts)
        system = self._system if thinking else []
        return Turn(scene, tuple(system), tuple(texts), start, target, seen)
