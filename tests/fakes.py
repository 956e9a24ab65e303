"""Stand-ins for the parts of the mesh: quick, deterministic, and able to fail on order."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphagrpo import seeds
from alphagrpo.config import RunConfig, parse_config
from alphagrpo.errors import NoQuestions, ServiceUnavailable
from alphagrpo.ports import GroupReport, Picture, PictureRequest, Sample, Timings
from alphagrpo.step.blocks import training_batch
from alphagrpo.training import RankSeconds, TrainingBatch, TrainingBlock, UpdateReport
from alphagrpo.types import (
    Group,
    Prompt,
    Question,
    QuestionSet,
    RolloutJob,
    Score,
    Verdict,
    WeightsManifest,
)


def make_prompts(count: int) -> list[Prompt]:
    return [Prompt(id=f"p{i}", text=f"{i} red circles") for i in range(count)]


def make_config(**sections: Any) -> RunConfig:
    """A small valid run config; ``sections`` replace or extend whole sections."""
    raw: dict[str, Any] = {
        "name": "fake",
        "model": {"path": "nowhere"},
        "task": {"system_prompt": "plan first", "max_think_tokens": 6, "height": 32, "width": 32},
        "data": {"train": "fake", "heldout": "fake"},
        "rollout": {
            "group_size": 4,
            "prompts_per_step": 3,
            "pause": {"first_s": 0},
            "flow": {"num_points": 6, "window": {"length": 3, "allowed": (0, 4)}},
        },
    }
    for name, section in sections.items():
        raw[name] = {**raw[name], **section} if isinstance(raw.get(name), dict) else section
    return parse_config(raw)


def make_questions(prompt: str) -> QuestionSet:
    return QuestionSet(
        prompt=prompt,
        questions=(
            Question(id="s0", text="is it red ?", kind="semantic", tag="Attribute"),
            Question(id="q0", text="is it sharp ?", kind="quality", tag="Texture"),
        ),
        revision="fake@1",
    )


class FakeDecomposer:
    """Two questions for every prompt; raises NoQuestions for ``unanswerable`` prompt ids."""

    def __init__(self, unanswerable: Sequence[str] = (), down_for: Sequence[str] = ()) -> None:
        self.unanswerable, self.down_for = set(unanswerable), set(down_for)
        self.calls: Counter[str] = Counter()

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        self.calls[prompt.id] += 1
        await asyncio.sleep(0)
        if prompt.id in self.unanswerable:
            raise NoQuestions(f"a prompt needs one question, {prompt.text!r} has none; rewrite it")
        if prompt.id in self.down_for:
            raise ServiceUnavailable("the fake decomposer is down; wait")
        return make_questions(prompt.text)


class FakeVerifier:
    """P(yes) from the picture's bytes, or from ``judge``; fails for chosen call numbers."""

    def __init__(
        self,
        judge: Callable[[np.ndarray, Question], float] | None = None,
        fail_calls: Sequence[int] = (),
        delay_s: float = 0.0,
    ) -> None:
        self.judge, self.fail_calls, self.delay_s = judge, set(fail_calls), delay_s
        self.calls = 0

    async def verify(
        self, pixels: np.ndarray, questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        call, self.calls = self.calls, self.calls + 1
        await asyncio.sleep(self.delay_s)
        if call in self.fail_calls:
            raise ServiceUnavailable("the fake verifier is down; wait")
        return tuple(self._verdict(pixels, question) for question in questions)

    def _verdict(self, pixels: np.ndarray, question: Question) -> Verdict:
        p_yes, grade = self._p_yes(pixels, question), None
        if question.form == "grade":
            grade = round(10 * p_yes)
            p_yes = grade / 10
        return Verdict(question_id=question.id, p_yes=p_yes, judge="fake@1", grade=grade)

    def _p_yes(self, pixels: np.ndarray, question: Question) -> float:
        if self.judge is not None:
            return self.judge(pixels, question)
        digest = hashlib.sha256(pixels.tobytes() + question.id.encode()).digest()
        return digest[0] / 255


def make_fake_verifier(**kwargs: Any) -> FakeVerifier:
    """What actors resolve by import path in the cluster tests."""
    return FakeVerifier(**kwargs)


class FakePool:
    """Rewards from the sample seeds, without a model."""

    def __init__(
        self,
        size: int = 2,
        reward: Callable[[RolloutJob, int], float | None] | None = None,
        runners: int = 1,
    ) -> None:
        self._size, self._reward, self._runners = size, reward, runners
        self.jobs: list[RolloutJob] = []
        self.in_flight = self.peak = 0

    @property
    def size(self) -> int:
        return self._size

    async def roll_out(
        self, job: RolloutJob, questions: QuestionSet, *, keep_pictures: int = 0
    ) -> GroupReport:
        self.jobs.append(job)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        # Later groups finish sooner, so that order of arrival differs from order of dispatch.
        await asyncio.sleep(0.003 / len(self.jobs))
        self.in_flight -= 1
        samples = tuple(self._sample(job, i, i < keep_pictures) for i in range(job.group_size))
        return GroupReport(
            job=job,
            questions=questions,
            samples=samples,
            reference=job,
            runner=f"runner-{len(self.jobs) % self._runners}",
            timings=Timings(sample_s=0.001, verify_s=0.001),
        )

    def _sample(self, job: RolloutJob, index: int, picture: bool) -> Sample:
        seed = seeds.sample_seed(job.seed, job.prompt.id, job.visit, index)
        value = self._reward(job, index) if self._reward else seed / 2**seeds.SEED_BITS
        name = f"{job.run}/{job.prompt.id}/{job.visit}/{index}"
        if value is None:
            return Sample(
                id=name, thought="", score=None, reward=None, invalid_reason="verifier down"
            )
        score = Score(semantic=value, quality=value, value=value, verdicts=())
        return Sample(
            id=name, thought="", score=score, reward=value, png=b"png" if picture else None
        )

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        pixels = np.zeros((16, 16, 3), np.uint8)
        return tuple(
            Picture(prompt=r.prompt, thought="", pixels=pixels, policy_version=version)
            for r in requests
        )


class FakeLearner:
    """Counts steps and versions and keeps what it was given."""

    def __init__(self) -> None:
        self.updates: list[TrainingBatch] = []
        self.blocks: list[TrainingBlock] = []
        """Of the step under way, in the order they came."""
        self.begun = 0
        self.version = -1

    async def begin(self, attempt: int) -> None:
        self.begun += 1
        self.blocks.clear()

    async def accumulate(self, block: TrainingBlock) -> None:
        self.blocks.append(block)

    async def finish(self, denominator: float) -> UpdateReport:
        groups = sorted((g for b in self.blocks for g in b.groups), key=lambda group: group.place)
        batch = TrainingBatch(groups=tuple(groups), denominator=denominator)
        self.updates.append(batch)
        flat = not any(value for group in batch.groups for value in group.samples.advantages)
        return UpdateReport(
            step=len(self.updates),
            skipped=flat,
            seconds=RankSeconds(0.25, 0.25),
            metrics={"learner/skipped": float(flat)},
        )

    async def publish(self) -> WeightsManifest:
        self.version += 1
        return WeightsManifest(
            version=self.version, checksum="0" * 64, names=(), shapes=(), dtypes=(), offsets=(),
            nbytes=0,
        )  # fmt: skip

    async def save(self, folder: str) -> None:
        self._file(folder).write_text(str(self.version), encoding="utf-8")

    async def load(self, folder: str) -> int:
        self.version = int(self._file(folder).read_text(encoding="utf-8"))
        return self.version

    @staticmethod
    def _file(folder: str) -> Path:
        return Path(folder, "learner.json")


class FakeTokenizer:
    """One id per character class, enough for a vocabulary of 40."""

    def encode(self, text: str) -> list[int]:
        return [5 + ord(letter) % 35 for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(str(token) for token in token_ids)


def make_model(trainable: str = "experts", seed: int = 0) -> Any:
    """A BAGEL of two layers with lively velocities; with adapters, B is not zero either."""
    import torch

    from alphagrpo.models.bagel import random_bagel, tiny_config
    from alphagrpo.models.lora import add_lora
    from alphagrpo.policy.family import FAMILY
    from alphagrpo.policy.trainable import trainable_parameters

    model = random_bagel(tiny_config(), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.llm2vae.weight.normal_(std=0.3, generator=generator)
        # Flatter next-token distributions, so that thoughts end at all sorts of lengths.
        model.language_model.lm_head.weight.mul_(0.3)
        if trainable == "lora":
            add_lora(model, FAMILY.takes_adapter, rank=4, alpha=8.0, seed=seed)
            for name, parameter in model.named_parameters():
                if name.endswith("lora_b"):
                    parameter.normal_(std=0.05, generator=generator)
    trainable_parameters(model, trainable)
    return model


def make_job(prompt: Prompt, config: RunConfig, version: int = 0, visit: int = 0) -> RolloutJob:
    return RolloutJob(
        run=config.name,
        prompt=prompt,
        visit=visit,
        group_size=config.rollout.group_size,
        policy_version=version,
        seed=config.seed,
    )


def batch_of(groups: Sequence[Group], config: RunConfig) -> TrainingBatch:
    """What the loop would hand to the learner of these scored groups."""
    return training_batch([report_of(group) for group in groups], config)


def report_of(group: Group) -> GroupReport:
    """A scored group's report, as far as its rewards go."""
    drafts = group.draft_group.rewards if group.draft_group else ()
    return GroupReport(
        job=group.job,
        questions=make_questions(group.job.prompt.text),
        samples=tuple(_rewarded(reward) for reward in group.rewards),
        reference=group,
        runner="none",
        drafts=tuple(_rewarded(reward) for reward in drafts),
    )


def _rewarded(reward: float | None) -> Sample:
    return Sample(id="sample", thought="", score=None, reward=reward)


def image_log_probs(replay: Any, model: Any) -> Any:
    """A replay's log-probabilities [G, K], all steps at once; the learner bounds its memory."""
    import torch

    return torch.stack([replay.image_step(model, k).log_prob for k in range(replay.num_steps)], 1)
