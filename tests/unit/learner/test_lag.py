"""Samples of an older policy: what the clips do about them, and what importance weights do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alphagrpo.config import RunConfig
from alphagrpo.errors import ParityError
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.types import Group
from tests.fakes import (
    FakeTokenizer,
    batch_of,
    image_log_probs,
    make_config,
    make_job,
    make_model,
    make_prompts,
)

REWARDS: Sequence[Sequence[float | None]] = ((0.2, 0.9, None, 0.5), (1.0, 0.1, 0.8, 0.3))
SCORED = 7
LAGS = ("clip", "importance")
LORA = {"trainable": "lora", "lora": {"rank": 4, "alpha": 8}}
EXPERTS = {"trainable": "experts"}
KL = {"text": {"kl_weight": 0.1}, "image": {"kl_weight": 0.5}}


def lagging_config(
    lag: str, model: Mapping[str, Any] = EXPERTS, **algorithm: Mapping[str, Any] | float
) -> RunConfig:
    return make_config(
        model=model,
        rollout={"max_lag": 1},
        algorithm={"lag": lag, "advantage_std": "group", **algorithm},
        optimizer={"lr": 1e-3},
    )


class Run:
    """A worker and a learner; what the learner's last step was made of is kept."""

    def __init__(self, config: RunConfig) -> None:
        kind = config.model.trainable
        self.config = config
        self.learner = GRPOLearner(make_model(kind), config)
        self.worker = RolloutWorker(make_model(kind), FakeTokenizer(), config)
        self.worker.apply_weights(*self.learner.export())
        self.gradients: list[Tensor | None] = []
        self._step = self.learner.optimizer.step
        self.learner.optimizer.step = self._kept  # type: ignore[method-assign]

    def draw(self, visit: int = 0) -> list[Group]:
        jobs = [make_job(p, self.config, self.worker.version, visit) for p in make_prompts(2)]
        groups = [self.worker.sample_group(job) for job in jobs]
        return [replace(g, rewards=tuple(r)) for g, r in zip(groups, REWARDS, strict=True)]

    def update(self, groups: Sequence[Group]) -> Mapping[str, float]:
        metrics = self.learner.update(batch_of(groups, self.config)).metrics
        self.learner.export()
        return metrics

    def lagging_update(self) -> tuple[list[Group], Any, Mapping[str, float]]:
        """A step on groups that are one version old: these, the model before it, its metrics."""
        old = self.draw(visit=1)
        self.update(self.draw())
        model = make_model(self.config.model.trainable)
        model.load_state_dict(self.learner.module.state_dict())
        metrics = self.update(old)
        assert metrics["learner/lag"] == 1.0
        return old, model, metrics

    def _kept(self, step: int, gradients: Sequence[Tensor | None]) -> float:
        self.gradients = [None if g is None else g.clone() for g in gradients]
        return self._step(step, gradients)


@pytest.mark.parametrize("level", ["sequence", "token"])
@pytest.mark.parametrize(("model", "kl"), [(EXPERTS, {}), (LORA, KL)], ids=["plain", "with KL"])
def test_without_lag_both_ways_are_the_same_bits(
    model: Mapping[str, Any], kl: Mapping[str, Any], level: str
) -> None:
    text = {"level": level, **kl.get("text", {})}
    runs = [Run(lagging_config(lag, model, **{**kl, "text": text})) for lag in LAGS]
    metrics = [run.update(run.draw()) for run in runs]
    clip, importance = runs
    assert sum(g is not None for g in clip.gradients) > 4
    for one, other in zip(clip.gradients, importance.gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (torch.equal(one, other) and torch.isfinite(one).all())
    assert clip.learner.export()[0].checksum == importance.learner.export()[0].checksum
    for part in ("text", "image"):
        assert metrics[1].pop(f"{part}/mean_weight") == 1.0
        assert metrics[1].pop(f"{part}/capped_share") == 0.0
    for figures in metrics:
        figures.pop("learner/update_s")
    assert metrics[0] == metrics[1]


def test_the_clip_takes_image_terms_that_importance_weights_leave() -> None:
    figures = {lag: Run(lagging_config(lag)).lagging_update()[2] for lag in LAGS}
    clip, importance = figures["clip"], figures["importance"]
    assert clip["image/clip_share"] > 0.3
    assert importance["image/clip_share"] == importance["text/clip_share"] == 0.0
    for key in ("image/max_abs_log_ratio", "image/mean_ratio", "text/max_abs_log_ratio"):
        assert clip[key] == importance[key] not in (0.0, 1.0), "current against recorded"
    assert importance["image/mean_weight"] == pytest.approx(importance["image/mean_ratio"])
    assert "image/mean_weight" not in clip


def advantages_of(rewards: Sequence[float | None]) -> list[float | None]:
    known = torch.tensor([r for r in rewards if r is not None])
    spread = float(known.std(correction=0)) + 1e-4
    return [None if r is None else (r - float(known.mean())) / spread for r in rewards]


def stated_loss(model: Any, groups: Sequence[Group], config: RunConfig, level: str) -> Tensor:
    """-min(ratio, cap) A log p of each term, the ratio being a number: its gradient is the step's.

    Both halves weigh what they weigh on policy.
    """
    total, cap, clamp = torch.zeros(()), config.algorithm.lag_cap, 0.9
    for group in groups:
        replay = replay_group(model, group, config)
        steps = image_log_probs(replay, model)
        for sample, advantage in enumerate(advantages_of(group.rewards)):
            if advantage is None:
                continue
            sampled = replay.thoughts.mask[sample]
            now, old = (t[sample][sampled] for t in (replay.thoughts.log_probs, replay.old_text))
            change = (now - old).detach()
            if level == "sequence":
                text = min(float(change.mean().exp()), cap) * now.mean()
            else:
                text = sum(min(float(c.exp()), cap) * n for c, n in zip(change, now, strict=True))
                text = text / len(now)
            bounded = max(-clamp, min(clamp, advantage))
            image = torch.zeros(())
            for new, recorded in zip(steps[sample], replay.old_image[sample], strict=True):
                weight = min(float((new - recorded).detach().exp()), cap)
                image = image + weight * new
            window = steps.shape[1]
            total = total - (window * advantage * text + bounded * image) / (window + 1)
    return total / SCORED


@pytest.mark.parametrize("cap", [2.0, 1.0])
@pytest.mark.parametrize("level", ["sequence", "token"])
def test_a_lagging_step_has_the_gradient_of_capped_importance_sampling(
    level: str, cap: float
) -> None:
    image = {"advantage_clamp": 0.9}
    config = lagging_config("importance", lag_cap=cap, text={"level": level}, image=image)
    run = Run(config)
    groups, model, metrics = run.lagging_update()
    for part in ("text", "image"):
        share = metrics[f"{part}/capped_share"]
        assert share == 0.0 if cap == 2.0 else 0.1 < share < 0.9
        assert metrics[f"{part}/mean_weight"] < metrics[f"{part}/mean_ratio"] or cap == 2.0

    loss = stated_loss(model, groups, config, level)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    largest = max(float(g.abs().max()) for g in gradients if g is not None)
    assert largest > 1e-3
    for got, stated in zip(run.gradients, gradients, strict=True):
        assert (got is None) == (stated is None)
        if got is not None:
            torch.testing.assert_close(got, stated, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("lag", LAGS)
def test_the_gate_compares_with_what_was_recorded_whatever_is_done_about_lag(lag: str) -> None:
    run = Run(lagging_config(lag))
    groups = run.draw()
    first = groups[0].trajectories[0]
    image = replace(first.image, log_probs=first.image.log_probs + 1e-5)
    wrong = replace(first, segments=(*first.segments[:3], image))
    groups[0] = replace(groups[0], trajectories=(wrong, *groups[0].trajectories[1:]))
    with pytest.raises(ParityError, match=r"the image part has 1\.0e-05"):
        run.update(groups)
