"""What the training loop talks to. Ray, in-process and fake adapters all speak these protocols.

References to groups are opaque to the loop: with Ray they are object-store references, in process
they are the groups themselves. The loop only ever reads :class:`GroupReport`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from alphagrpo.training import TrainingBlock, UpdateReport
from alphagrpo.types import (
    GivenImage,
    Prompt,
    Question,
    QuestionSet,
    RolloutJob,
    Score,
    Verdict,
    WeightsManifest,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds a group spent in each stage, as its runner saw them."""

    sample_s: float = 0.0
    """Thinking and denoising."""
    verify_s: float = 0.0
    """From the first verification call of the group to its last answer."""
    tail_s: float = 0.0
    """From the end of its sampling to its last answer."""
    pull_s: float = 0.0
    """Fetching and checking newer weights before the group was sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample as people look at it: for the report, the ledger and the dashboard."""

    id: str
    thought: str
    """The sampled text, think tags included; empty without thinking."""
    score: Score | None
    reward: float | None
    png: bytes | None = None
    """The picture, only where the job asked for it."""
    picture_hash: str = ""
    """sha256 of the pixels, hex; names the file in the run folder."""
    invalid_reason: str = ""
    """Why no score could be had; empty for a scored sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """The small half of a finished group; the large half stays behind :attr:`reference`."""

    job: RolloutJob
    questions: QuestionSet
    samples: tuple[Sample, ...]
    reference: Any
    """The :class:`alphagrpo.types.Group`, or an object-store reference to it."""
    runner: str
    timings: Timings = Timings()
    drafts: tuple[Sample, ...] = ()
    """Of a refinement: the pictures of its first stage. They carry a reward where they are
    trained on too.
    """
    draft: int | None = None
    """Which of ``drafts`` all samples began from."""
    slices: tuple[GroupReport, ...] = ()
    """Of a group that was split over runners: the reports of its parts, in order of samples."""
    draft_slices: tuple[GroupReport, ...] = ()
    """The same of its drafts, where they are trained on too."""
    spent: tuple[tuple[str, Timings], ...] = ()
    """Which runners spent how long on it, where there were several."""
    effect: float | None = None
    """How far the runner's weights moved the policy's answer to a fixed input from that of the
    version before, relative to its norm; None for a runner's first.
    """

    @property
    def num_valid(self) -> int:
        """Samples that have a reward."""
        return sum(sample.reward is not None for sample in self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The picture that refinements begin from, as one that was drawn before they were ordered."""

    source: Any
    """A :class:`alphagrpo.types.GivenImage`, or the :class:`alphagrpo.types.Group` it is of; or an
    object-store reference to either.
    """
    index: int
    """Of the trajectory that drew it, in its group."""
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftReport:
    """Untrained drafts of a refinement, drawn and scored."""

    samples: tuple[Sample, ...]
    chosen: int | None
    """Which of them is refined; None where none has a score."""
    reference: Any
    """The chosen :class:`alphagrpo.types.GivenImage`, or an object-store reference to it."""
    runner: str
    timings: Timings = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRequest:
    """One picture for evaluation or a person: no training, no SDE."""

    prompt: Prompt
    """What to draw; for an edit, the instruction."""
    seed: int
    start: GivenImage | None = None
    """The picture to refine or to edit; None to draw from the prompt alone."""
    purpose: Literal["refine", "edit"] = "refine"
    """What is done to ``start``: reflect on it and draw the prompt again, or do what the prompt
    says to it.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The answer to a :class:`PictureRequest`."""

    prompt: Prompt
    thought: str
    pixels: NDArray[np.uint8]
    """[H, W, 3]"""
    policy_version: int
    latents: NDArray[np.float32] | None = None
    """[N, C] it was decoded from: what a refinement of it is shown."""

    def as_start(self) -> GivenImage:
        """The picture as what a refinement or an edit begins from."""
        assert self.latents is not None, "drawn pictures carry their latents"
        return GivenImage(latents=self.latents, pixels=self.pixels)


class Decomposer(Protocol):
    """Breaks a prompt into atomic yes/no questions."""

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        """Questions of ``prompt``. Raises NoQuestions, ServiceUnavailable or DeadlineExceeded."""
        ...


class Verifier(Protocol):
    """Answers questions about a picture."""

    async def verify(
        self, pixels: NDArray[np.uint8], questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        """One verdict per question, in order, about ``pixels`` [H, W, 3].

        All questions of a picture go in one call. Raises ServiceUnavailable or DeadlineExceeded
        when not every verdict could be had.
        """
        ...


class PictureSource(Protocol):
    """Draws pictures, anywhere."""

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Draw pictures for evaluation with weights of exactly ``version``, in order."""
        ...


class RolloutPool(PictureSource, Protocol):
    """Samples and scores groups, and draws pictures."""

    @property
    def size(self) -> int:
        """How many groups are worth having in flight at once."""
        ...

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        """Sample and score one group; lost runners are retried elsewhere with the same seeds."""
        ...


class SlicePool(RolloutPool, Protocol):
    """A pool that can be asked for parts of groups, and for drafts alone."""

    async def roll_out(
        self,
        job: RolloutJob,
        questions: QuestionSet,
        *,
        keep_pictures: int = 0,
        draft: Draft | None = None,
    ) -> GroupReport:
        """Sample and score a group or a slice of one; refinements begin from ``draft`` if given."""
        ...

    async def draw_drafts(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> DraftReport:
        """Draw and score the untrained drafts of a refinement, and choose one."""
        ...


class Learner(Protocol):
    """Owns the policy's trainable parameters."""

    async def begin(self, attempt: int) -> None:
        """Begin an optimizer step; what was summed for an earlier attempt is forgotten."""
        ...

    async def accumulate(self, block: TrainingBlock) -> None:
        """Replay the groups behind the block's references and add up their gradients.

        Blocks of a step may come in any order and while others are still replayed: sums are taken
        in the order of the groups' places. Nothing of the learner changes.
        """
        ...

    async def finish(self, denominator: float) -> UpdateReport:
        """The optimizer step on what was summed, divided by ``denominator`` samples."""
        ...

    async def publish(self) -> WeightsManifest:
        """Publish the current parameters as a new version and return its manifest."""
        ...

    async def save(self, folder: str) -> None:
        """Write parameters, optimizer and step (safetensors and JSON) into ``folder``."""
        ...

    async def load(self, folder: str) -> int:
        """Restore what :meth:`save` wrote; returns the step."""
        ...


class WeightStore(Protocol):
    """Versioned weights: published by the learner, pulled by runners."""

    async def publish(self, chunks: Sequence[Any], manifest: WeightsManifest) -> None:
        """Make a version available. Versions only grow."""
        ...

    async def newest(self) -> WeightsManifest | None:
        """The newest manifest, or None before the first publication."""
        ...

    async def fetch(self, version: int) -> tuple[WeightsManifest, Sequence[Any]]:
        """Manifest and flat uint8 chunks of ``version``; raises WeightsError if it is gone."""
        ...
