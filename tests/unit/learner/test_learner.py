"""The GRPO step: it learns, it accounts for every sample, and it refuses what it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from alphagrpo.config import RunConfig
from alphagrpo.errors import CheckpointError, ConfigError, ParityError, PolicyDataError
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.state import load_learner, save_learner
from alphagrpo.policy.checkpoint import load_weights
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.training import UpdateReport
from alphagrpo.types import Group, Trajectory
from tests.fakes import FakeTokenizer, batch_of, make_config, make_job, make_model, make_prompts

Reward = Callable[[Trajectory], float | None]


def by_index(trajectory: Trajectory) -> float:
    return float(trajectory.sample)


class Bench:
    """A worker and a learner with models of their own, as in a mesh."""

    def __init__(self, config: RunConfig | None = None) -> None:
        self.config = config or make_config(model={"trainable": "experts"})
        kind = self.config.model.trainable
        self.worker = RolloutWorker(make_model(kind), FakeTokenizer(), self.config)
        self.learner = GRPOLearner(make_model(kind), self.config)
        self.sync()

    def sync(self) -> None:
        self.worker.apply_weights(*self.learner.export())

    def update(self, groups: Sequence[Group]) -> UpdateReport:
        return self.learner.update(batch_of(groups, self.config))

    def draw(self, reward: Reward = by_index, visit: int = 0, count: int = 2) -> list[Group]:
        groups = [
            self.worker.sample_group(make_job(p, self.config, self.worker.version, visit))
            for p in make_prompts(count)
        ]
        return [replace(g, rewards=tuple(reward(t) for t in g.trajectories)) for g in groups]


def parameters(learner: GRPOLearner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.parameters.items()}


def changed(before: dict[str, torch.Tensor], learner: GRPOLearner) -> bool:
    return any(not torch.equal(before[n], p) for n, p in learner.parameters.items())


@pytest.mark.parametrize("trainable", ["lora", "experts"])
def test_first_step_has_exact_parity_and_changes_weights(trainable: str) -> None:
    bench = Bench(make_config(model={"trainable": trainable, "lora": {"rank": 4, "alpha": 8}}))
    before = parameters(bench.learner)
    report = bench.update(bench.draw())
    assert report.metrics["parity/image_max_abs_log_ratio"] == 0.0
    assert report.metrics["parity/text_max_abs_log_ratio"] == 0.0
    assert (report.step, report.skipped) == (1, False)
    assert report.metrics["learner/grad_norm"] > 0
    assert changed(before, bench.learner)
    bench.sync()
    assert bench.worker.version == 1


def test_learner_raises_the_chance_of_what_is_rewarded() -> None:
    """Reward for even first tokens: their share must rise within a few steps."""
    config = make_config(
        model={"trainable": "experts"},
        task={"max_think_tokens": 4},
        rollout={
            "group_size": 12,
            "text": {"top_p": 1.0},
            "flow": {"num_points": 4, "window": {"length": 1, "allowed": (0, 2)}},
        },
        optimizer={"lr": 3e-3},
    )
    bench = Bench(config)
    for model in (bench.worker.model, bench.learner.model):
        model.language_model.lm_head.weight.data.mul_(4.0)  # a head that can tell ids apart

    def even(trajectory: Trajectory) -> float:
        return float(trajectory.text.token_ids[0] % 2 == 0)

    shares = []
    for visit in range(8):
        groups = bench.draw(even, visit)
        shares.append(np.mean([group.rewards for group in groups]))
        bench.update(groups)
        bench.sync()
    assert np.mean(shares[-2:]) > np.mean(shares[:2]) + 0.25, shares


def test_equal_rewards_are_skipped_and_keep_the_version() -> None:
    bench = Bench()
    before = parameters(bench.learner)
    report = bench.update(bench.draw(lambda t: 0.5))
    assert report.skipped
    assert report.step == 0
    assert not changed(before, bench.learner)
    assert bench.learner.export()[0].version == 0


def test_invalid_samples_change_nothing() -> None:
    """A sample without a reward must not enter the statistics, whatever it looks like."""
    one, other = Bench(), Bench()
    missing: Reward = lambda t: None if t.sample == 1 else float(t.sample)  # noqa: E731
    groups = one.draw(missing)
    scrambled = [
        replace(
            g,
            trajectories=tuple(
                t if t.sample != 1 else _with_other_scores(t) for t in g.trajectories
            ),
        )
        for g in groups
    ]
    one.update(groups)
    other.update(scrambled)
    pairs = zip(one.learner.parameters.values(), other.learner.parameters.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _with_other_scores(trajectory: Trajectory) -> Trajectory:
    segments = [*trajectory.segments[:3], trajectory.image]
    text = trajectory.text
    segments[2] = replace(text, log_probs=text.log_probs - 3.0)
    segments[3] = replace(trajectory.image, log_probs=trajectory.image.log_probs * 2)
    return replace(trajectory, segments=tuple(segments))


def test_step_does_not_depend_on_how_samples_are_spread_over_groups() -> None:
    """The mean runs over all samples of the step: two groups are not two steps."""
    bench = Bench()
    groups = bench.draw(count=3)
    report = bench.update(groups)
    twin = Bench()
    report_again = twin.update(list(reversed(twin.draw(count=3))))
    for name, value in bench.learner.parameters.items():
        torch.testing.assert_close(value, twin.learner.parameters[name], atol=1e-7, rtol=1e-4)
    assert report.metrics["text/loss"] == pytest.approx(report_again.metrics["text/loss"], abs=1e-6)


def test_replay_that_disagrees_is_refused_before_any_step() -> None:
    bench = Bench()
    groups = bench.draw()
    broken = _with_other_scores(groups[0].trajectories[1])
    trajectories = (groups[0].trajectories[0], broken, *groups[0].trajectories[2:])
    before = parameters(bench.learner)
    with pytest.raises(ParityError, match=r"text part has .*rollout\.threads"):
        bench.update([replace(groups[0], trajectories=trajectories), groups[1]])
    assert not changed(before, bench.learner)
    assert bench.learner.step == 0


def test_groups_are_trained_once() -> None:
    bench = Bench()
    groups = bench.draw()
    bench.update(groups)
    with pytest.raises(PolicyDataError, match="trained on once"):
        bench.update(groups)
    fresh = Bench()
    with pytest.raises(PolicyDataError, match="trained on once"):
        fresh.update([fresh.draw()[0]] * 2)


def test_a_prompt_is_remembered_however_many_steps_ago_it_was_trained_on() -> None:
    bench = Bench()
    old, new = bench.draw(count=2)
    bench.update([old])
    bench.sync()
    (other,) = (replace(g, rewards=new.rewards) for g in bench.draw(count=2)[1:])
    bench.update([other])
    bench.sync()
    with pytest.raises(PolicyDataError, match="prompt p0 at visit 0 came again"):
        bench.update(bench.draw(count=1))
    assert bench.learner.visits == {"p0": 0, "p1": 0}


def test_a_group_drawn_by_two_versions_is_refused() -> None:
    bench = Bench()
    group = bench.draw(count=1)[0]
    mixed = (*group.trajectories[:3], replace(group.trajectories[3], policy_version=7))
    with pytest.raises(PolicyDataError, match=r"by one version, its job names 0 .* has \[7\]"):
        bench.update([replace(group, trajectories=mixed)])


def test_weights_that_the_group_does_not_bear_out_are_refused() -> None:
    bench = Bench()
    groups = bench.draw(lambda t: None if t.sample == 2 else float(t.sample))
    batch = batch_of(groups, bench.config)
    everyone = replace(batch.groups[0].samples, weights=(1.0, 1.0, 1.0, 1.0))
    wrong = replace(batch.groups[0], samples=everyone)
    with pytest.raises(PolicyDataError, match="weight of 1 for each sample with a reward"):
        bench.learner.update(replace(batch, groups=(wrong, *batch.groups[1:])))


def test_stale_groups_are_refused_unless_lag_is_allowed() -> None:
    bench = Bench()
    old = bench.draw(visit=1)
    bench.update(bench.draw())
    bench.learner.export()
    with pytest.raises(PolicyDataError, match="at most 0 versions behind 1"):
        bench.update(old)
    lagging = Bench(make_config(model={"trainable": "experts"}, rollout={"max_lag": 1}))
    old = lagging.draw(visit=1)
    lagging.update(lagging.draw())
    lagging.learner.export()
    report = lagging.update(old)
    assert report.metrics["learner/lag"] == 1.0
    assert report.metrics["image/max_abs_log_ratio"] > 0


def test_numbers_that_are_not_finite_are_refused() -> None:
    bench = Bench()
    groups = bench.draw()
    bad = groups[0].trajectories[0]
    latents = bad.image.latents.copy()
    latents[1, 0, 0] = np.nan
    segments = (*bad.segments[:3], replace(bad.image, latents=latents))
    trajectories = (replace(bad, segments=segments), *groups[0].trajectories[1:])
    with pytest.raises(PolicyDataError, match="finite"):
        bench.update([replace(groups[0], trajectories=trajectories)])
    with pytest.raises(PolicyDataError, match="rewards must be finite"):
        bench.update(bench.draw(lambda t: float("inf")))


def test_unscored_and_short_groups_are_refused() -> None:
    bench = Bench()
    group = bench.draw()[0]
    for unfit in (replace(group, rewards=()), replace(group, trajectories=group.trajectories[1:])):
        with pytest.raises(PolicyDataError, match="4 samples with a reward"):
            bench.update([unfit])
    with pytest.raises(PolicyDataError, match="at least one group"):
        bench.update([])


def test_kl_needs_adapters_and_pulls_towards_the_model_without_them() -> None:
    algorithm = {"text": {"kl_weight": 1.0}, "image": {"kl_weight": 10.0}}
    with pytest.raises(ConfigError, match="reference"):
        Bench(make_config(model={"trainable": "experts"}, algorithm=algorithm))
    lora = {"trainable": "lora", "lora": {"rank": 4, "alpha": 8}}
    flow = {"num_points": 6, "window": {"length": 3, "allowed": (0, 3)}}
    config = make_config(
        model=lora, algorithm=algorithm, optimizer={"lr": 2e-3}, rollout={"flow": flow}
    )
    bench = Bench(config)
    kls = []
    for visit in range(12):
        report = bench.update(bench.draw(lambda t: 1.0, visit))
        kls.append((report.metrics["text/kl"], report.metrics["image/kl"]))
        bench.sync()
    assert not report.skipped, "equal rewards teach nothing, the KL term does"
    before, after = np.mean(kls[:3], axis=0), np.mean(kls[-3:], axis=0)
    assert (after > 0).all()
    assert (after < 0.8 * before).all()


def test_state_restores_the_exact_continuation(tmp_path) -> None:
    bench = Bench()
    bench.update(bench.draw())
    bench.sync()
    save_learner(bench.learner, tmp_path)
    groups = bench.draw(visit=1)
    expected = bench.update(groups)

    model = make_model("experts")
    with torch.no_grad():
        model.language_model.model.layers[0].mlp.up_proj.weight.add_(1.0)
    restored = GRPOLearner(model, bench.config)
    assert load_learner(restored, tmp_path) == 1
    manifest, _ = restored.export()
    assert manifest == bench.worker.manifest
    with pytest.raises(PolicyDataError, match="trained on once"):
        restored.update(batch_of(bench.draw(visit=0), bench.config))
    assert (
        restored.update(batch_of(groups, bench.config)).metrics["text/loss"]
        == expected.metrics["text/loss"]
    )
    pairs = zip(restored.parameters.values(), bench.learner.parameters.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_step_version_and_visits_are_restored_each_in_its_place(tmp_path) -> None:
    learner = GRPOLearner(make_model(), make_config(model={"trainable": "experts"}))
    learner.step, learner.version, learner.visits = 7, 4, {"p0": 2, "p1": 0}
    learner.mark_exported()
    save_learner(learner, tmp_path)
    restored = GRPOLearner(make_model(), learner.config)
    assert load_learner(restored, tmp_path) == 7
    assert (restored.step, restored.version) == (7, 4)
    assert restored.visits == {"p0": 2, "p1": 0}
    assert restored.export()[0].version == 4, "the weights are those of that version"
    assert load_weights(restored.parameters, tmp_path) == 4


def test_a_checkpoint_of_before_the_first_version_leads_to_version_0(tmp_path) -> None:
    learner = GRPOLearner(make_model(), make_config(model={"trainable": "experts"}))
    save_learner(learner, tmp_path)
    load_learner(learner, tmp_path)
    assert learner.export()[0].version == 0
    assert learner.export()[0].version == 0, "nothing has changed since"


def test_broken_checkpoints_are_refused(tmp_path) -> None:
    bench = Bench()
    save_learner(bench.learner, tmp_path / "whole")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_learner(bench.learner, tmp_path)
    tensors = tmp_path / "whole" / "learner.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        load_learner(bench.learner, tmp_path / "whole")
    lora = GRPOLearner(make_model("lora"), make_config(model={"trainable": "lora"}))
    save_learner(lora, tmp_path / "lora")
    with pytest.raises(CheckpointError, match="exactly its trainable parameters"):
        load_learner(bench.learner, tmp_path / "lora")


def test_half_precision_weights_move_by_less_than_their_resolution() -> None:
    from alphagrpo.config.optimization import OptimizerConfig
    from alphagrpo.learner.optimizer import MasterAdamW

    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterAdamW({"w": weight}, OptimizerConfig(lr=1e-4, weight_decay=0.0))
    for step in range(60):
        optimizer.step(step, [torch.ones(4)])
    assert float(weight[0].detach()) < 1.0, "60 updates of 1e-4 must add up"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_where_the_saved_one_was(dtype: torch.dtype) -> None:
    from alphagrpo.config.optimization import OptimizerConfig
    from alphagrpo.learner.optimizer import MasterAdamW

    config = OptimizerConfig(lr=1e-3, warmup_steps=0)

    def made() -> tuple[torch.nn.Parameter, MasterAdamW]:
        weight = torch.nn.Parameter(torch.linspace(1.0, 2.0, 5, dtype=dtype))
        return weight, MasterAdamW({"w": weight}, config)

    def steps(weight: torch.nn.Parameter, optimizer: MasterAdamW, first: int, count: int) -> None:
        for index in range(first, first + count):
            optimizer.step(index, [torch.sin(torch.arange(5.0) + index)])

    weight, optimizer = made()
    start = {name: t.clone() for name, t in optimizer.state_tensors().items()}
    steps(weight, optimizer, 0, 40)
    half = {name: t.clone() for name, t in optimizer.state_tensors().items()}
    other, restored = made()
    steps(other, restored, 3, 2)
    restored.load_state_tensors(half)
    assert torch.equal(other, weight), "before any further step"
    steps(weight, optimizer, 40, 10)
    steps(other, restored, 40, 10)
    assert torch.equal(other, weight)
    assert torch.equal(restored.state_tensors()["master/w"], optimizer.state_tensors()["master/w"])

    restored.load_state_tensors(start)
    fresh, first = made()
    steps(fresh, first, 0, 1)
    steps(other, restored, 0, 1)
    assert torch.equal(restored.state_tensors()["master/w"], first.state_tensors()["master/w"]), (
        "a checkpoint without moments leaves none"
    )


def test_each_expert_has_its_own_rate() -> None:
    from alphagrpo.config.optimization import OptimizerConfig
    from alphagrpo.learner.optimizer import MasterAdamW

    names = ("layers.0.q_proj.weight", "layers.0.q_proj_moe_gen.weight")
    weights = {name: torch.nn.Parameter(torch.ones(2)) for name in names}
    config = OptimizerConfig(lr=4e-3, generation_lr=1e-3, weight_decay=0.0, warmup_steps=2)
    optimizer = MasterAdamW(weights, config)
    optimizer.step(0, [torch.ones(2), torch.ones(2)])
    moved = [1.0 - float(weight[0].detach()) for weight in weights.values()]
    # Adam's first step is the rate itself, here half of it.
    assert moved == pytest.approx([2e-3, 5e-4], rel=1e-3)
    assert optimizer.learning_rate == pytest.approx(2e-3)


def test_the_rate_falls_to_zero_over_decay_steps() -> None:
    from alphagrpo.config.optimization import OptimizerConfig
    from alphagrpo.learner.optimizer import MasterAdamW

    weight = torch.nn.Parameter(torch.ones(2))
    config = OptimizerConfig(lr=1e-3, warmup_steps=2, decay_steps=4, weight_decay=0.0)
    optimizer = MasterAdamW({"w": weight}, config)
    rates = []
    for step in range(5):
        optimizer.step(step, [torch.ones(2)])
        rates.append(optimizer.learning_rate)
    assert rates == pytest.approx([5e-4, 7.5e-4, 5e-4, 2.5e-4, 0.0])


def test_gradient_that_is_not_finite_leaves_the_weights() -> None:
    from alphagrpo.config.optimization import OptimizerConfig
    from alphagrpo.learner.optimizer import MasterAdamW

    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = MasterAdamW({"w": weight}, OptimizerConfig(warmup_steps=10))
    assert np.isnan(optimizer.step(0, [torch.tensor([1.0, float("nan")])]))
    assert weight.detach().tolist() == [1.0, 1.0]
    optimizer.step(0, [torch.tensor([1.0, 1.0])])
    assert optimizer.learning_rate == pytest.approx(5e-6)
