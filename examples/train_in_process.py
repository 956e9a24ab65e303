"""AlphaGRPO in one process: no Ray, no vLLM, two cores, about a minute.

    python examples/train_in_process.py [--steps 40] [--set seed=7]

Loop, runner, reward and learner are those of a run on a cluster. Only the parts that reach other
processes are replaced, by `LocalPool`, `LocalLearner` and `LocalStore`.

The two judges are stand-ins, which this world makes possible: each prompt carries the scene that it
describes, and an oracle reads a picture from its pixels. In a real run the oracle never rewards: a
decomposer model writes the questions, a verifier model answers them with a confidence, and the
oracle only judges held-out pictures. So the figures here say nothing about a run with a verifier.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from math import nan
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from alphagrpo.config import load_config
from alphagrpo.data import load_prompts
from alphagrpo.learner.inprocess import LocalLearner, LocalStore
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.policy.loading import load_policy
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.rollout.inprocess import LocalPool
from alphagrpo.rollout.runner import GroupRunner
from alphagrpo.shapes.oracle import answer, read
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.splits import spec_of
from alphagrpo.types import Prompt, Question, QuestionSet, Verdict

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["data.num_train=512", "rollout.prompts_per_step=8"]


class ReferenceDecomposer:
    """The questions that follow from the scene a prompt describes; the policy never sees them."""

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        """Questions such as ``is the circle red ?``."""
        questions = reference_questions(spec_of(prompt))
        return QuestionSet(prompt=prompt.text, questions=questions, revision="reference@shapes")


class OracleVerifier:
    """Answers from the pixels: P(yes) is 1 or 0. A verifier model would say 0.93 or 0.2."""

    async def verify(
        self, pixels: np.ndarray, questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        """One verdict per question about ``pixels`` [48, 48, 3]."""
        reading = read(pixels)
        return tuple(
            Verdict(question_id=q.id, p_yes=float(answer(q.text, reading)), judge="oracle")
            for q in questions
        )


def make_loop(overrides: Sequence[str]) -> TrainingLoop:
    """All parts of a run, put together in one process."""
    # 1. A YAML file describes the run. The overrides are what `alphagrpo train --set` takes.
    model = f"model.path={ROOT}/deploy/models/policy"
    config = load_config(ROOT / "deploy/configs/shapes-rt2i.yaml", [model, *SMALL, *overrides])
    torch.set_num_threads(config.rollout.threads)  # the same for runner and learner: equal bits
    # 2. Prompts, in an order that the seed decides.
    prompts = load_prompts(config.data.train, num=config.data.num_train, seed=config.seed)
    # 3. The runner has the policy: it thinks, draws, and has its pictures judged.
    store, policy = LocalStore(), load_policy(config)
    worker = RolloutWorker(policy.model, policy.tokenizer, config)
    pool = LocalPool(GroupRunner(worker, OracleVerifier(), store, config))
    # 4. The learner has a copy of its own. New weights reach the runner through the store.
    learner = LocalLearner(GRPOLearner(load_policy(config).model, config), store)
    # 5. The loop knows the parts by their protocols only (alphagrpo/ports.py).
    decomposer = ReferenceDecomposer()
    return TrainingLoop(config, prompts, decomposer=decomposer, pool=pool, learner=learner)


def show(report: StepReport, seconds: float) -> None:
    """One line of a step. Replay repeats the rollout, so that the largest |log ratio| is 0."""
    scores = [s.score.value for group in report.groups for s in group.samples if s.score]
    ratio = max(report.metrics.get(f"{part}/max_abs_log_ratio", nan) for part in ("text", "image"))
    line = f"step {report.step:3d}   reward {report.metrics['reward/mean']:.3f}"
    line += f"   all yes {scores.count(1.0) / len(scores):4.0%}   parity {ratio:g}"
    print(f"{line}   {seconds:.1f} s", flush=True)


async def train(steps: int, overrides: Sequence[str]) -> list[StepReport]:
    """Take ``steps`` optimizer steps; what each did."""
    loop, reports = make_loop(overrides), []
    for _ in range(steps):
        started = perf_counter()
        reports.append(await loop.run_step())  # sample, judge, learn, publish
        show(reports[-1], perf_counter() - started)
    for group in reports[-1].groups[:3]:
        print(f"\nprompt   {group.job.prompt.text}\nthought  {group.samples[0].thought}")
    weights = await loop.ensure_published()
    print(f"\nweights  version {weights.version}, checksum {weights.checksum}")
    await loop.close()
    return reports


def main(arguments: Sequence[str] | None = None) -> list[StepReport]:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="AlphaGRPO in one process")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    args = parser.parse_args(arguments)
    return asyncio.run(train(args.steps, args.set))


if __name__ == "__main__":
    main()
