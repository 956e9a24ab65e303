"""A run folder as a real run leaves it, made in a second from the miniature world's renderer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alphagrpo.config import RunConfig, load_config
from alphagrpo.data import load_heldout, load_prompts
from alphagrpo.eval.figures import probe_metrics, summarise
from alphagrpo.eval.heldout import HeldOutJudges, evaluate
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.eval.oracles import shapes_oracle
from alphagrpo.eval.probe import PROMPT_SET, probe_prompts, prompt_set
from alphagrpo.images import encode_png, image_hash
from alphagrpo.loop import StepReport
from alphagrpo.ports import GroupReport, Picture, PictureRequest, Sample
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.recorder import Recorder
from alphagrpo.rewards.programs import configured_program, reward_program
from alphagrpo.shapes.language import thought
from alphagrpo.shapes.oracle import answer, read
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import sample_scene, sample_spec
from alphagrpo.shapes.splits import spec_of
from alphagrpo.step.blocks import training_batch
from alphagrpo.types import (
    Prompt,
    Question,
    QuestionSet,
    RolloutJob,
    Score,
    Verdict,
    WeightsManifest,
)
from tests.fakes import FakeVerifier

ROOT = Path(__file__).parents[1]


class RenderingPool:
    """Draws what the prompt says with probability ``skill``, else something at random."""

    def __init__(self, skill: float) -> None:
        self.skill = skill

    @property
    def size(self) -> int:
        return 2

    async def draw(self, requests: list[PictureRequest], version: int) -> tuple[Picture, ...]:
        return tuple(self._picture(request, version) for request in requests)

    def _picture(self, request: PictureRequest, version: int) -> Picture:
        rng = np.random.default_rng(request.seed)
        own = spec_of(request.prompt)
        spec = own if rng.random() < self.skill else sample_spec(rng)
        pixels = render(sample_scene(spec, rng))
        return Picture(
            prompt=request.prompt, thought=thought(spec), pixels=pixels, policy_version=version
        )


class OracleDecomposer:
    async def decompose(self, prompt: Prompt) -> QuestionSet:
        return QuestionSet(
            prompt=prompt.text,
            questions=reference_questions(spec_of(prompt)),
            revision="reference@shapes-1",
        )


class OracleVerifier:
    """Confident and right, for tests of what is done with verdicts."""

    async def verify(self, pixels: np.ndarray, questions: list[Question]) -> tuple[Verdict, ...]:
        reading = read(pixels)
        return tuple(
            Verdict(
                question_id=q.id, p_yes=0.93 if answer(q.text, reading) else 0.06, judge="fake@1"
            )
            for q in questions
        )


def connect_oracle_decomposer(**_options: object) -> OracleDecomposer:
    """Stands in for ``services.client:connect_decomposer``."""
    return OracleDecomposer()


def connect_hashing_verifier(**_options: object) -> FakeVerifier:
    """Stands in for ``services.client:connect_verifier``; its rewards differ, so all trains."""
    return FakeVerifier()


def synthetic_config(output: Path, **changes: str) -> RunConfig:
    overrides = [f"output={output}", *(f"{key}={value}" for key, value in changes.items())]
    return load_config(ROOT / "deploy/configs/shapes-rt2i.yaml", overrides)


def make_run(
    output: Path, *, steps: int = 24, heldout: int = 16, finished: bool = True, **changes: str
) -> RunFolder:
    """Write a run below ``output``: steps, both evaluations, summary.

    Half of the ``heldout`` prompts of each sort are probed after every fourth step. A run that is
    not ``finished`` has no evaluation after training.
    """
    config = synthetic_config(output, **changes)
    folder = RunFolder.create(config)
    asyncio.run(_fill(folder, config, steps, heldout, finished))
    return folder


async def _fill(
    folder: RunFolder, config: RunConfig, steps: int, heldout: int, finished: bool
) -> None:
    recorder = Recorder(folder, config)
    held = load_heldout("shapes:heldout", num_plain=heldout, num_thought=heldout, seed=1)
    judges = HeldOutJudges(
        oracle=shapes_oracle,
        decomposer=OracleDecomposer(),
        verifier=OracleVerifier(),
        program=reward_program("dvreward"),
    )

    async def look(phase: str, prompts: Sequence[Prompt], skill: float) -> list[HeldOutLine]:
        keep = None if phase == "probe" else folder.save_picture
        pool = RenderingPool(skill)
        lines = await evaluate(pool, prompts, judges, version=0, seed=1, keep=keep)
        folder.write_evaluation(phase, lines)
        return lines

    before = await look("before", held, 0.35)
    probed = probe_prompts(held, before, heldout // 2)
    for step in range(1, steps + 1):
        extra: dict[str, float] = {}
        if step % 4 == 0 and step < steps:
            lines = await look("probe", probed, 0.35 + 0.35 * step / steps)
            extra = {PROMPT_SET: prompt_set(line.id for line in lines)}
            extra |= probe_metrics(summarise(lines))
        recorder.record_step(await _step(step, steps, config), extra)
    if finished:
        await look("after", held, 0.7)
    manifest = WeightsManifest(
        version=steps, checksum="c" * 64, names=(), shapes=(), dtypes=(), offsets=(), nbytes=0
    )
    summary = recorder.summary(wall_s=900.0, weights=manifest, memory={"mesh_gib": 5.4})
    folder.write_summary(summary)


async def _step(step: int, steps: int, config: RunConfig) -> StepReport:
    skill = 0.35 + 0.35 * step / steps
    prompts = load_prompts("shapes:train", num=2, seed=step)
    groups = tuple([await _group(step, prompt, skill, config) for prompt in prompts])
    rewards = [s.reward for group in groups for s in group.samples if s.reward is not None]
    rng = np.random.default_rng(step)
    metrics = {
        "reward/mean": float(np.mean(rewards)),
        "reward/score": float(np.mean(rewards)) - 0.2,
        "samples/drawn": 24.0,
        "samples/scored": 23.0,
        "samples/invalid": 1.0,
        "samples/trained": 23.0,
        "samples/per_second": 20 + rng.random(),
        **_times(rng, config),
        "image/max_abs_log_ratio": 4e-7 * rng.random(),
        "parity/image_max_abs_log_ratio": 0.0,
        "parity/text_max_abs_log_ratio": 0.0,
    }
    return StepReport(
        step=step,
        version=step,
        groups=groups,
        training=training_batch(groups, config).groups,
        metrics=metrics,
    )


def _times(rng: np.random.Generator, config: RunConfig) -> dict[str, float]:
    """Of a step whose one learner takes longer than its runners."""
    waits = {
        "time/rollout_s": 0.8 + 0.1 * rng.random(),
        "time/verify_wait_s": 0.3 + 0.05 * rng.random(),
        "time/learn_s": 1.2 + 0.1 * rng.random(),
        "time/sync_s": 0.05,
    }
    step_s, draw_s, learn_s = sum(waits.values()), 0.75, 1.6 + 0.1 * rng.random()
    clipped = 0.46 + 0.04 * rng.random() if config.rollout.max_lag else 0.0
    return {
        **waits,
        "time/step_s": step_s,
        "time/bound_s": learn_s,
        "time/efficiency": learn_s / step_s,
        "hidden/verify_s": 0.4,
        "hidden/learn_s": learn_s - waits["time/learn_s"],
        "hidden/sync_s": 0.01,
        "busy/draw": draw_s / step_s,
        "busy/learn": learn_s / step_s,
        "stage/draw_s": draw_s,
        "stage/learn_s": learn_s,
        "learner/lag": float(config.rollout.max_lag),
        "image/clip_share": clipped,
        "text/clip_share": clipped / 16,
    }


async def _group(step: int, prompt: Prompt, skill: float, config: RunConfig) -> GroupReport:
    questions = await OracleDecomposer().decompose(prompt)
    pool, program = RenderingPool(skill), reward_program("dvreward")
    size = config.rollout.group_size
    requests = [PictureRequest(prompt=prompt, seed=step * 100 + i) for i in range(size)]
    samples = []
    for index, picture in enumerate(await pool.draw(requests, step)):
        verdicts = await OracleVerifier().verify(picture.pixels, list(questions.questions))
        score: Score | None = program.score(questions, verdicts) if index else None
        samples.append(
            Sample(
                id=f"{step}/{index}",
                thought=picture.thought,
                score=score,
                reward=None if score is None else score.value + 0.2,
                png=encode_png(picture.pixels),
                picture_hash=image_hash(picture.pixels),
                invalid_reason="" if score else "verifier was late",
            )
        )
    job = RolloutJob(
        run=config.name, prompt=prompt, visit=0, group_size=size, policy_version=step, seed=1
    )
    return GroupReport(
        job=job, questions=questions, samples=tuple(samples), reference=None, runner="rollout-0"
    )


def oracle_judges(config: RunConfig, *, services: bool) -> HeldOutJudges:
    """As :func:`alphagrpo.cli.evaluate.judges_of`, with the world's oracle for both services."""
    if not services:
        return HeldOutJudges(oracle=shapes_oracle)
    return HeldOutJudges(
        oracle=shapes_oracle,
        decomposer=OracleDecomposer(),
        verifier=OracleVerifier(),
        program=configured_program(config.reward),
    )
