"""Stage 1 of a refinement: which draft is refined (method: section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alphagrpo import seeds
from alphagrpo.config.refinement import DraftConfig
from alphagrpo.images import encode_png, image_hash
from alphagrpo.ports import Picture, Sample
from alphagrpo.types import GivenImage, Group, ImageSegment, RolloutJob, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """The scored pictures of stage 1."""

    pictures: tuple[GivenImage, ...]
    samples: tuple[Sample, ...]
    """The same pictures as people look at them. A sample without a score says why."""
    group: Group | None = None
    """The scored text-to-image group they are of, where they are trained on too."""

    @property
    def complete(self) -> bool:
        """Whether every draft has a score."""
        return all(sample.score is not None for sample in self.samples)


def pick_draft(samples: Sequence[Sample], job: RolloutJob, how: DraftConfig) -> int | None:
    """Which draft is refined; None where none has a score.

    A draft whose score could not be had may not seed training. ``worst`` takes the lowest reward,
    the first of equals; ``sampled`` picks by softmax(1 - r), from the job alone.
    """
    scored = [(i, s.score.value) for i, s in enumerate(samples) if s.score is not None]
    if not scored:
        return None
    if how.pick == "worst":
        return min(scored, key=lambda pair: (pair[1], pair[0]))[0]
    weights = [math.exp(1.0 - reward) for _, reward in scored]
    shared = seeds.group_seed(job.seed, job.prompt.id, job.visit)
    luck = seeds.derive("pick", shared) / 2**seeds.SEED_BITS * sum(weights)
    for (index, _), weight in zip(scored, weights, strict=True):
        luck -= weight
        if luck < 0:
            return index
    return scored[-1][0]


def drawn_drafts(
    job: RolloutJob,
    pictures: Sequence[Picture],
    answers: Sequence[Score | str],
    keep_pictures: int,
) -> Drafts:
    """Untrained drafts with what was answered about them: a score, or why there is none."""
    samples = []
    for index, (picture, answer) in enumerate(zip(pictures, answers, strict=True)):
        samples.append(
            Sample(
                id=f"{job.run}/{job.prompt.id}/{job.visit}/draft/{index}",
                thought=picture.thought,
                score=answer if isinstance(answer, Score) else None,
                reward=None,
                png=encode_png(picture.pixels) if keep_pictures else None,
                picture_hash=image_hash(picture.pixels),
                invalid_reason=answer if isinstance(answer, str) else "",
            )
        )
    return Drafts(pictures=tuple(p.as_start() for p in pictures), samples=tuple(samples))


def trained_drafts(group: Group, samples: Sequence[Sample]) -> Drafts:
    """The samples of a scored text-to-image group as drafts."""
    images = [trajectory.image for trajectory in group.trajectories]
    return Drafts(
        pictures=tuple(_as_start(image) for image in images), samples=tuple(samples), group=group
    )


def given(source: Group | GivenImage, index: int) -> GivenImage:
    """A draft that was drawn before: itself, or the picture of a group's trajectory."""
    if isinstance(source, GivenImage):
        return source
    return _as_start(source.trajectories[index].image)


def _as_start(image: ImageSegment) -> GivenImage:
    return GivenImage(latents=image.final_latents, pixels=image.pixels)
