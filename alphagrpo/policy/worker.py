"""The plain rollout worker: a policy that draws groups and pictures. No Ray in sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from alphagrpo import seeds
from alphagrpo.config import RunConfig
from alphagrpo.config.sampling import SamplingParams
from alphagrpo.models import weights
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.contexts import Ids, ImageConditions, read_prefix
from alphagrpo.policy.denoising import FlowPlan
from alphagrpo.policy.drawing import GeneratedBatch, RandomKeys, ThoughtSettings, draw_batch
from alphagrpo.policy.effect import WeightsEffect
from alphagrpo.policy.loading import Tokenizer
from alphagrpo.policy.recipe import GroupSeeds, Recipe
from alphagrpo.policy.starts import check_start, image_conditions
from alphagrpo.policy.static_thinking import thought_sampler
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.rewards.format import format_bonus
from alphagrpo.tasks import refinement_of
from alphagrpo.types import (
    GivenImage,
    GivenText,
    Group,
    ImageSegment,
    Prompt,
    RolloutJob,
    Segment,
    TextSegment,
    Trajectory,
    WeightsManifest,
)


class RolloutWorker:
    """Draws with one set of weights at a time.

    Example: ``RolloutWorker(model, tokenizer, config).sample_group(job)``
    """

    def __init__(self, model: UnifiedModel, tokenizer: Tokenizer, config: RunConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.manifest: WeightsManifest | None = None
        self.parameters = trainable_parameters(cast(nn.Module, model), config.model.trainable)
        device = next(iter(self.parameters.values())).device
        self._effect = WeightsEffect(model)
        self._sampler = thought_sampler(model, config.rollout.thinking, device)
        task, side = config.task, model.pixels_per_token
        self.grid = (task.height // side, task.width // side)
        self._system = np.asarray(tokenizer.encode(task.system_prompt), np.int64)

    @property
    def version(self) -> int:
        """Version of the weights in use; -1 before the first."""
        return -1 if self.manifest is None else self.manifest.version

    def apply_weights(self, manifest: WeightsManifest, chunks: Sequence[weights.Chunk]) -> None:
        """Use the published weights.

        Raises:
            WeightsError: where they are broken, and the old ones stay; or where they have no
                effect (:class:`alphagrpo.policy.effect.WeightsEffect`).
        """
        weights.apply(self.parameters, manifest, chunks)
        self._effect.check(manifest)
        self.manifest = manifest

    def adopt(self, manifest: WeightsManifest) -> None:
        """The model's parameters are those of ``manifest`` already: it shares them with a learner
        that has proved so.
        """
        self._effect.check(manifest)
        self.manifest = manifest

    @property
    def effect(self) -> float | None:
        """How far the weights in use moved the policy from those before; None for the first."""
        return self._effect.relative

    # -- groups, for training

    @torch.no_grad()
    def sample_group(self, job: RolloutJob) -> Group:
        """All text-to-image samples of ``job``, unscored: a function of job and weights alone.

        The group, or the slice of it that the job asks for, is one batch; replay has the same
        geometry (docs/parity.md).
        """
        recipe, keys = Recipe.of(self.config, "rt2i"), GroupSeeds.of(job)
        window, prompt = recipe.window(keys.shared), self._encode(job.prompt.text)
        think = self.config.task.think
        prefix = read_prefix(self.model, self._system if think else None, [prompt])
        batch = draw_batch(
            self.model,
            prefix.expand(job.size),
            recipe.plan(window),
            self._keys(recipe, keys, job),
            self.grid,
            self._thinking(think, recipe.text),
        )
        texts, images = batch.text_segments(), batch.image_segments(window, keys.shared)
        conditions = self._given(think, GivenText(token_ids=prompt))
        return self._group(job, keys, _joined([conditions] * job.size, texts, images))

    @torch.no_grad()
    def draw_drafts(self, job: RolloutJob) -> tuple[Picture, ...]:
        """Stage 1 of a refinement: untrained pictures of its prompt, by ODE (method: 2.2)."""
        how = refinement_of(self.config).drafts
        shared = GroupSeeds.of(job).shared
        numbers = [seeds.derive("draft", shared, i) for i in range(how.num)]
        shift = self.config.rollout.flow.shift
        prefix = read_prefix(
            self.model, self._system if how.think else None, [self._encode(job.prompt.text)]
        )
        batch = draw_batch(
            self.model,
            prefix.expand(how.num),
            FlowPlan.euler(how.num_points, shift, how.guidance),
            RandomKeys.of_requests(numbers),
            self.grid,
            self._thinking(how.think, how.text),
        )
        return self._pictures([job.prompt] * how.num, batch)

    @torch.no_grad()
    def sample_refinements(self, job: RolloutJob, draft: GivenImage) -> Group:
        """Stage 2: all samples of ``job`` begin from ``draft``, reflect, and draw again.

        Further rounds begin from each sample's own last picture; its latents are the condition,
        so that nothing is encoded again.
        """
        recipe, think = Recipe.of(self.config, "srr"), self.config.task.think
        request = self._encode(refinement_of(self.config).request(job.prompt.text))
        conditions = self._given(think, draft, GivenText(token_ids=request))
        segments = [conditions] * job.size
        starts: Sequence[GivenImage | ImageSegment] = [draft]
        for index in range(recipe.rounds):
            keys = GroupSeeds.of(job, index)
            window = recipe.window(keys.shared)
            plan = recipe.plan(window)
            prefix = read_prefix(
                self.model,
                self._system if think else None,
                [request] * len(starts),
                image_conditions(starts, self.grid, self.model),
                image_branch=plan.needs_image_branch,
            )
            batch = draw_batch(
                self.model,
                prefix.expand(job.size) if index == 0 else prefix,
                plan,
                self._keys(recipe, keys, job),
                self.grid,
                self._thinking(think, recipe.text),
            )
            images = batch.image_segments(window, keys.shared)
            segments = _joined(segments, batch.text_segments(), images)
            starts = images
        return self._group(job, GroupSeeds.of(job), segments)

    # -- pictures, for evaluation and for people

    @torch.no_grad()
    def draw(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """One picture per request, in order; each purpose in one padded batch.

        Raises:
            BadImage: for a picture to refine or edit that is not of the run's size and form.
        """
        pictures: dict[int, Picture] = {}
        for purpose in ("draw", "refine", "edit"):
            indices = [i for i, r in enumerate(requests) if _purpose(r) == purpose]
            if indices:
                batch = self._requested(purpose, [requests[i] for i in indices])
                pictures |= dict(zip(indices, batch, strict=True))
        return tuple(pictures[i] for i in range(len(requests)))

    def _requested(self, purpose: str, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        settings, think = self.config.evaluation, self.config.task.think
        shift, guidance = self.config.rollout.flow.shift, settings.guidance
        texts, pictures = [request.prompt.text for request in requests], None
        if purpose != "draw":
            pictures = self._conditions(requests)
            how = self.config.refinement
            if how is not None:
                shift, guidance = how.flow.shift, settings.refinement_guidance or how.flow.guidance
        if purpose == "refine":
            texts = [refinement_of(self.config).request(text) for text in texts]
        plan = FlowPlan.euler(settings.num_points, shift, guidance, has_image=pictures is not None)
        prefix = read_prefix(
            self.model,
            self._system if think else None,
            [self._encode(text) for text in texts],
            pictures,
            image_branch=plan.needs_image_branch,
        )
        batch = draw_batch(
            self.model,
            prefix,
            plan,
            RandomKeys.of_requests([request.seed for request in requests]),
            self.grid,
            self._thinking(think, settings.text),
        )
        return self._pictures([request.prompt for request in requests], batch)

    def describe(self, trajectory: Trajectory) -> str:
        """A trajectory's thoughts as text, without closing end ids; a line per round."""
        return "\n".join(self._text(text.token_ids) for text in trajectory.texts)

    # -- parts

    def _conditions(self, requests: Sequence[PictureRequest]) -> ImageConditions:
        starts = [request.start for request in requests if request.start is not None]
        for start in starts:
            check_start(start, self.config.task, self.grid, self.model.latent_channels)
        return image_conditions(starts, self.grid, self.model)

    def _group(
        self, job: RolloutJob, keys: GroupSeeds, segments: Sequence[tuple[Segment, ...]]
    ) -> Group:
        name = f"{job.run}/{job.prompt.id}/{job.visit}"
        name += "/refined" if job.task == "srr" else ""
        return Group(
            job=job,
            trajectories=tuple(
                Trajectory(
                    id=f"{name}/{i}",
                    sample=i,
                    seed=keys.own[i],
                    policy_version=self.version,
                    segments=own,
                    well_formed=self._well_formed(own),
                )
                for i, own in zip(job.samples, segments, strict=True)
            ),
        )

    def _well_formed(self, segments: Sequence[Segment]) -> bool:
        texts = [s for s in segments if isinstance(s, TextSegment)]
        return bool(texts) and all(format_bonus(self._text(t.token_ids)) > 0 for t in texts)

    def _given(self, think: bool, *segments: Segment) -> tuple[Segment, ...]:
        """What a trajectory begins with; the system prompt only where something is thought."""
        system = GivenText(token_ids=self._system, role="system")
        return (system, *segments) if think else segments

    def _thinking(self, think: bool, sampling: SamplingParams) -> ThoughtSettings | None:
        most = self.config.task.max_think_tokens
        return ThoughtSettings(sampling, most, self._sampler) if think else None

    def _pictures(self, prompts: Sequence[Prompt], batch: GeneratedBatch) -> tuple[Picture, ...]:
        latents = batch.latents
        return tuple(
            Picture(
                prompt=prompt,
                thought=self._text(batch.thoughts[i].ids) if batch.thoughts else "",
                pixels=batch.pixels[i],
                policy_version=self.version,
                latents=latents[i],
            )
            for i, prompt in enumerate(prompts)
        )

    @staticmethod
    def _keys(recipe: Recipe, group: GroupSeeds, job: RolloutJob) -> RandomKeys:
        own = [group.own[i] for i in job.samples]
        starts = [0] * job.size if recipe.flow.start_noise == "group" else job.samples
        return RandomKeys(own, [group.shared] * job.size, job.samples, starts)

    def _encode(self, text: str) -> Ids:
        return np.asarray(self.tokenizer.encode(text), np.int64)

    def _text(self, ids: Ids) -> str:
        inner = ids[:-1] if len(ids) and ids[-1] == self.model.special.text_end else ids
        return self.tokenizer.decode(inner.tolist())


def _joined(
    conditions: Sequence[tuple[Segment, ...]],
    texts: Sequence[tuple[TextSegment, ...]],
    images: Sequence[ImageSegment],
) -> list[tuple[Segment, ...]]:
    """Each sequence's segments with what it thought and drew after them."""
    joined: list[tuple[Segment, ...]] = []
    for old, text, image in zip(conditions, texts, images, strict=True):
        joined.append((*old, *text, image))
    return joined


def _purpose(request: PictureRequest) -> str:
    return "draw" if request.start is None else request.purpose
