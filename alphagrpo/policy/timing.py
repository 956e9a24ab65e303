"""Arithmetic of time: the operations of a group from the model's shape and the recipe, and seconds.

An estimate throughout (docs/speed.md): one token of the decoder costs what its products cost, a
card does a measured share of its roof, and thoughts are taken to have one length. Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alphagrpo.config import RunConfig
from alphagrpo.config.programs import ASKING_THE_SET, BUILT_IN_PROGRAMS
from alphagrpo.config.sampling import FlowConfig, GuidanceConfig
from alphagrpo.policy.cards import Card
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.loads import task_load
from alphagrpo.policy.memory import ModelSize
from alphagrpo.policy.recipe import Recipe
from alphagrpo.tasks import refinement_of
from alphagrpo.types import TaskName

TERA = 1e12
THOUGHT_TOKENS = 128
"""Length that a thought is assumed to have: that of the measured groups."""
QUESTIONS = 45
"""Questions that a prompt is assumed to have, semantic and quality ones: the recipe's average."""
QUESTIONS_PER_S = 400.0
"""Answered by one judge's GPU: an assumption (a shared prefix per picture), not a measurement."""
MARKERS = 2
"""Tokens around a piece of text or a picture."""
TIME_EPSILON = 1e-6
"""How near two times are the same: the model's side has them as float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWork:
    """What one group, or a slice of one, asks of a card. Operations are in TFLOP."""

    denoising: float = 0.0
    reading: float = 0.0
    """Prefixes and finished thoughts, at the rollout."""
    token_steps: float = 0.0
    """Tokens that are sampled one after the other, each for all samples at once."""
    pixels: float = 0.0
    """Decoded, in millions."""
    pictures: float = 0.0
    """That are judged, drafts included."""
    image_learning: float = 0.0
    """Window steps, forward and backward."""
    text_learning: float = 0.0

    def draw_s(self, card: Card) -> float:
        """Seconds of the rollout."""
        return (
            self.denoising / (card.matmul_tflops * card.denoising_share)
            + self.reading / (card.matmul_tflops * card.reading_share)
            + self.thinking_s(card)
            + self.pixels * card.decode_s
        )

    def thinking_s(self, card: Card) -> float:
        """Seconds of these in which thoughts are sampled."""
        return self.token_steps * card.token_s

    def learn_s(self, card: Card) -> float:
        """Seconds of the learner, without the optimizer."""
        return (
            self.image_learning / (card.matmul_tflops * card.learning_share)
            + self.text_learning / (card.matmul_tflops * card.reading_share)
        )  # fmt: skip

    @property
    def drawing(self) -> float:
        """TFLOP of the rollout, sampled tokens and decoding left out."""
        return self.denoising + self.reading

    @property
    def learning(self) -> float:
        """TFLOP of the learner."""
        return self.image_learning + self.text_learning


def weighted_sum(parts: Sequence[tuple[float, GroupWork]]) -> GroupWork:
    """The sum of works, each times its factor."""
    return GroupWork(
        **{
            name: math.fsum(factor * getattr(work, name) for factor, work in parts)
            for name in GroupWork.__dataclass_fields__
        }
    )


def group_work(
    config: RunConfig,
    shape: PolicyShape,
    size: ModelSize,
    *,
    samples: int,
    thought_tokens: int,
    recomputed: float,
) -> GroupWork:
    """The work of a prompt's ``samples`` samples; in a mixed run, of the average prompt.

    ``thought_tokens`` is the length of every thought of a run that thinks, ``recomputed`` the share
    of layers that a rank computes again backward.
    """
    prompt = _Prompt(config, shape, size, samples, thought_tokens, recomputed)
    if config.task.kind == "rt2i":
        return prompt.trained("rt2i")
    refined = weighted_sum([(1.0, prompt.drafts()), (1.0, prompt.trained("srr"))])
    if config.task.kind == "srr":
        return refined
    share = refinement_of(config).share
    return weighted_sum([(share, refined), (1.0 - share, prompt.trained("rt2i"))])


def questions_per_picture(config: RunConfig) -> int:
    """Assumed number of questions that a reward program asks about a picture."""
    program = config.reward.program
    return 1 if program in BUILT_IN_PROGRAMS and program not in ASKING_THE_SET else QUESTIONS


def num_branches(
    guidance: GuidanceConfig, num_points: int, shift: float, *, guided: bool, has_image: bool
) -> list[int]:
    """Guidance branches of each denoising step: those of ``FlowPlan.num_branches``.

    A point of the schedule on the interval's lower bound is outside here; there float32 decides.
    """
    low, high = guidance.interval
    most = 1
    if guided and guidance.text_scale > 1:
        most = 3 if has_image and guidance.image_scale > 1 else 2
    times = []
    for step in range(num_points - 1):
        u = 1 - step / (num_points - 1)
        times.append(shift * u / (1 + (shift - 1) * u))
    return [most if low + TIME_EPSILON < t <= high + TIME_EPSILON else 1 for t in times]


def backward_passes(config: RunConfig, kl_weight: float, recomputed: float) -> float:
    """What a trained forward costs in forwards: itself, gradients of inputs, and what is asked for.

    Gradients of weights count where the experts train; those of adapters are too few to count.
    """
    experts = config.model.trainable == "experts"
    return 2 + recomputed + experts + (kl_weight > 0)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt's trajectories."""

    config: RunConfig
    shape: PolicyShape
    size: ModelSize
    samples: int
    thought_tokens: int
    recomputed: float

    def trained(self, task: TaskName) -> GroupWork:
        """A group that is drawn, judged and learnt."""
        config, recipe = self.config, Recipe.of(self.config, task)
        prefix, thought = (
            task_load(config, self.shape, task).prefix,
            self._thought(config.task.think),
        )
        branches = self._branches(recipe.flow, task, guided=recipe.guided)
        forwards = self.samples * recipe.rounds
        image = self._image_forward(prefix + thought) * forwards
        text = self._text_forward(thought, prefix) * forwards
        # From its second round on, each sample begins from a picture of its own.
        prefixes = self._forward(prefix, prefix) * (1 + (recipe.rounds - 1) * self.samples)
        algorithm, trains_image = config.algorithm, config.algorithm.image.enabled
        again = self.recomputed
        image_passes = backward_passes(config, algorithm.image.kl_weight, again) * trains_image
        text_passes = backward_passes(config, algorithm.text.kl_weight, again)
        return GroupWork(
            denoising=sum(branches) * image,
            reading=prefixes + text,
            token_steps=thought * recipe.rounds,
            pixels=self._pixels(forwards),
            pictures=self.samples,
            image_learning=_window_branches(branches, recipe.flow) * image * image_passes,
            text_learning=prefixes + text * text_passes,
        )

    def drafts(self) -> GroupWork:
        """What is drawn and judged before a refinement, and learnt where drafts are trained."""
        how = refinement_of(self.config).drafts
        if how.trained:
            return self.trained("rt2i")
        prefix = task_load(self.config, self.shape, "rt2i").prefix
        thought = self._thought(how.think)
        shift = self.config.rollout.flow.shift
        branches = num_branches(
            how.guidance, how.num_points, shift, guided=True, has_image=False
        )  # fmt: skip
        text = self._text_forward(thought, prefix) * how.num
        return GroupWork(
            denoising=sum(branches) * self._image_forward(prefix + thought) * how.num,
            reading=self._forward(prefix, prefix) + text,
            token_steps=thought,
            pixels=self._pixels(how.num),
            pictures=how.num,
        )

    def _thought(self, think: bool) -> int:
        return min(self.thought_tokens, self.config.task.max_think_tokens) if think else 0

    def _pixels(self, pictures: int) -> float:
        return pictures * self.config.task.height * self.config.task.width / 1e6

    def _branches(self, flow: FlowConfig, task: TaskName, *, guided: bool) -> list[int]:
        return num_branches(
            flow.guidance, flow.num_points, flow.shift, guided=guided, has_image=task == "srr"
        )

    def _image_forward(self, context: int) -> float:
        """One picture in one denoising step and branch, after ``context`` tokens."""
        side, task = self.shape.pixels_per_token, self.config.task
        tokens = (task.height // side) * (task.width // side) + MARKERS
        return self._forward(tokens, context + tokens)

    def _text_forward(self, thought: int, prefix: int) -> float:
        """Reading and scoring one thought; the text head is half of :attr:`ModelSize.embeddings`,
        and two operations a weight."""
        if not thought:
            return 0.0
        head = thought * self.size.embeddings / TERA
        return self._forward(thought + MARKERS, prefix + thought + MARKERS) + head

    def _forward(self, tokens: int, keys: int) -> float:
        return self.shape.forward_flops(tokens, keys) / TERA


def _window_branches(branches: Sequence[int], flow: FlowConfig) -> float:
    """Branch evaluations of a window, averaged over the places where it may start."""
    window = flow.window
    starts = range(window.allowed[0], window.allowed[1] - window.length + 1)
    return sum(sum(branches[start : start + window.length]) for start in starts) / len(starts)
