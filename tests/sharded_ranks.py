"""What ranks that hold shards do in tests: processes of their own, which write down what they saw.

Each process compares what it can itself, with the same number of threads on both sides, and leaves
its findings in ``<task>-<rank>.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from alphagrpo.config.optimization import OptimizerConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.learner.gradients import taken_gradients
from alphagrpo.learner.losses import add_gradients
from alphagrpo.learner.optimizer import MasterAdamW
from alphagrpo.learner.rounds import Round, Rounds
from alphagrpo.learner.sharding import Shards, form_of, shard_layers
from alphagrpo.learner.state import load_learner, save_learner
from alphagrpo.models import weights
from alphagrpo.models.bagel import mlp_parts
from alphagrpo.models.unified import ALL_LAYERS
from alphagrpo.policy.checkpoint import SavedTensors
from alphagrpo.policy.recipe import Recipe
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.trainable import trainable_parameters
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.types import GivenImage, Group, WeightsManifest
from tests.fakes import FakeTokenizer, make_config, make_job, make_model, make_prompts

FLOW = {
    "num_points": 6,
    "window": {"length": 2, "allowed": (0, 4)},
    "guidance": {"text_scale": 2.0, "image_scale": 1.5, "interval": (0.0, 1.0)},
}
CONFIG = make_config(
    model={"trainable": "experts"},
    task={"kind": "srr", "max_think_tokens": 6},
    refinement={
        "prompt": "it should be {prompt}",
        "rounds": 2,
        "drafts": {"trained": True},
        "flow": FLOW,
    },
)
"""Drafts and refinements: parts of two forms, with passes for keys and values only."""
STEPS = OptimizerConfig(lr=1e-3, generation_lr=3e-4, warmup_steps=0, grad_clip=1e9)
"""No clipping, whose factor would differ in the last digit with the number of ranks."""
CLIPPED = OptimizerConfig(lr=1e-3, warmup_steps=0, grad_clip=0.5)
TIMEOUT = timedelta(seconds=240)


@dataclass
class Holder:
    """As much of a learner as its state on disk needs."""

    optimizer: MasterAdamW
    step: int = 0
    version: int = 3
    visits: dict[str, int] = field(default_factory=lambda: {"p0": 2})

    def mark_exported(self) -> None:
        """Nothing to mark."""


@dataclass
class Rank:
    """A sharded model with its optimizer."""

    shards: Shards
    model: Any
    parameters: dict[str, Any]
    optimizer: MasterAdamW

    @classmethod
    def of(cls, model: Any, config: OptimizerConfig = STEPS) -> Rank:
        """As a learner's rank is built."""
        shards = shard_layers(model)
        parameters = trainable_parameters(model, "experts")
        return cls(shards, model, parameters, MasterAdamW(parameters, config, shards))

    def publish(self) -> WeightsManifest | None:
        """The manifest, on the first rank."""
        chunks: list[weights.Chunk] = []
        packer = weights.Packer(chunks.append, 5000)
        for name, tensor in self.shards.gathered(self.parameters):
            if self.shards.rank == 0:
                packer.add(name, tensor)
        return packer.close(version=3) if self.shards.rank == 0 else None

    def take_step(self, index: int) -> None:
        """An optimizer step along the invented gradients."""
        for name, whole in invented_gradients(self.parameters, index).items():
            share = self.parameters[name].detach().clone()
            first, end = self.shards.rows(len(whole))
            share.to_local().copy_(whole[first:end])
            self.parameters[name].grad = share
        self.optimizer.step(index, taken_gradients(list(self.parameters.values())))


def start(task: Callable[..., dict[str, Any]], ranks: int, folder: Path) -> list[dict[str, Any]]:
    """Run ``task(folder)`` on so many ranks; what each returned."""
    torch.multiprocessing.spawn(_join, (ranks, task, folder), nprocs=ranks)
    files = [folder / f"{task.__name__}-{rank}.json" for rank in range(ranks)]
    return [json.loads(file.read_text()) for file in files]


def _join(rank: int, ranks: int, task: Callable[..., dict[str, Any]], folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = f"file://{folder}/{task.__name__}.store"
    dist.init_process_group("gloo", store, TIMEOUT, ranks, rank)
    try:
        found = task(folder)
        (folder / f"{task.__name__}-{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()
    # Not by way of the interpreter's end, in which a process was once aborted ("terminate called").
    os._exit(0)


def invented_gradients(parameters: dict[str, Any], index: int) -> dict[str, Tensor]:
    """Of all but the last parameter, which stays without: the same for any number of ranks."""
    generator = torch.Generator().manual_seed(index)
    names = list(parameters)[:-1]
    shapes = {name: tuple(parameters[name].shape) for name in names}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def take_step(optimizer: MasterAdamW, parameters: dict[str, Any], index: int) -> None:
    """As :meth:`Rank.take_step`, without shards."""
    gradients = invented_gradients(parameters, index)
    optimizer.step(index, [gradients.get(name) for name in parameters])


def lowered(model: Any, dtype: torch.dtype) -> Any:
    """A model whose decoder computes in ``dtype``."""
    model.language_model.model.to(dtype)
    model.vae2llm.to(dtype)
    model.time_embedder.to(dtype)
    return model


def drawn_parts(model: Any) -> list[Group]:
    """Two drafts, and between them a refinement of the first, by the policy as it is."""
    worker = RolloutWorker(model, FakeTokenizer(), CONFIG)
    worker.apply_weights(*weights.flatten(worker.parameters, version=0))
    jobs = [make_job(prompt, CONFIG) for prompt in make_prompts(2)]
    drafts = [worker.sample_group(job) for job in jobs]
    image = drafts[0].trajectories[1].image
    start = GivenImage(latents=image.final_latents, pixels=image.pixels)
    refined = worker.sample_refinements(replace(jobs[0], task="srr"), start)
    return [drafts[0], refined, drafts[1]]


def scores(model: Any, group: Group) -> Iterator[Tensor]:
    """Of each round log-probabilities of the thoughts, then of each trained step by itself."""
    for index in range(Recipe.of(CONFIG, group.job.task).rounds):
        replay = replay_group(model, group, CONFIG, index)
        assert replay.thoughts is not None
        yield replay.thoughts.log_probs
        for k in range(replay.num_steps):
            yield replay.image_step(model, k).log_prob


def same_bits(dtype: torch.dtype, recompute: bool) -> bool:
    """Whether a sharded model scores a group as the whole one does, in every bit."""
    plain, model = (lowered(make_model(), dtype) for _ in range(2))
    group = drawn_parts(plain)[1]
    shard_layers(model)
    if recompute:
        model.set_recompute(ALL_LAYERS)
        mlp_parts.PART_TOKENS = 16
    pairs = zip(scores(model, group), scores(plain, group), strict=True)
    found = []
    for own, expected in pairs:
        own.sum().backward()
        found.append(torch.equal(own, expected) and bool(own.any()))
    return all(found)


def all_rounds(forms: Sequence[Hashable], ranks: int) -> list[Round[int]]:
    """The rounds of parts of these forms, which are named by their index."""
    dealt: Rounds[int] = Rounds(ranks)
    filled = [dealt.add(form, index) for index, form in enumerate(forms)]
    return [*(round_ for round_ in filled if round_), *dealt.rest()]


def replay_rounds(rank: Rank, groups: Sequence[Group]) -> list[int]:
    """All groups' gradients, in rounds; the parts that this rank replayed without counting."""
    idle = []
    for round_ in all_rounds([form_of(group) for group in groups], rank.shards.ranks):
        part, counts = round_.parts[rank.shards.rank], rank.shards.rank < round_.counting
        rank.shards.keep_step(form_of(groups[part]))
        for term in scores(rank.model, groups[part]):
            add_gradients((part + 1) * term.sum(), counts)
        idle += [] if counts else [part]
    return idle


def gradients_of_two(folder: Path) -> dict[str, Any]:
    """Two ranks, three parts: what their gradients are beside one plain backward's."""
    plain = make_model()
    groups = drawn_parts(plain)
    rank = Rank.of(make_model(), CLIPPED)
    for _ in scores(rank.model, groups[0]):
        pass  # forwards without a backward leave nothing behind
    idle = replay_rounds(rank, groups)
    for part, group in enumerate(groups):
        for term in scores(plain, group):
            ((part + 1) * term.sum()).backward()
    error, total, missing = 0.0, 0.0, []
    shares = 0
    for name, expected in trainable_parameters(plain, "experts").items():
        gradient: Any = rank.parameters[name].grad
        if (gradient is None) != (expected.grad is None):
            missing.append(name)
        if gradient is not None and expected.grad is not None:
            shares += gradient.to_local().numel()
            error += float((gradient.full_tensor() - expected.grad).double().square().sum())
            total += float(expected.grad.double().square().sum())
    norm = rank.optimizer.step(0, taken_gradients(list(rank.parameters.values())))
    trained = trainable_parameters(plain, "experts")
    plain_norm = MasterAdamW(trained, CLIPPED).step(0, taken_gradients(list(trained.values())))
    moved = dict(rank.shards.gathered(rank.parameters))
    apart = [float((moved[n] - p).abs().max()) for n, p in plain.named_parameters() if n in moved]
    return {
        "idle": idle,
        "error": (error / total) ** 0.5,
        "missing": missing,
        "share": shares / sum(p.numel() for p in rank.parameters.values()),
        "norms": [norm, plain_norm, total**0.5],
        "apart": max(apart),
        "bits": [same_bits(torch.float32, False), same_bits(torch.bfloat16, True)],
        "refused": _refused(rank.shards),
    }


def _refused(shards: Shards) -> str:
    try:
        shards.keep_step(("rt2i", 1, 1, 3 + shards.rank))
    except PolicyDataError as error:
        return str(error)
    return ""


def half_model() -> Any:
    """A model whose weights are rounded masters."""
    return lowered(make_model(), torch.bfloat16)


def checkpoints_of_two(folder: Path) -> dict[str, Any]:
    """Two ranks publish, take a step, save, and go on; then on from what one learner saved."""
    rank = Rank.of(half_model())
    published = [rank.publish()]
    rank.take_step(0)
    save_learner(Holder(rank.optimizer, step=1), folder / "two")  # type: ignore[arg-type]
    rank.take_step(1)
    published.append(rank.publish())
    read: list[int] = []
    real = SavedTensors.read

    def recorded(self: SavedTensors, name: str, rows: Any = None) -> Tensor:
        tensor = real(self, name, rows)
        read.append(tensor.numel())
        return tensor

    SavedTensors.read = recorded  # type: ignore[method-assign]
    step = load_learner(Holder(rank.optimizer), folder / "one")  # type: ignore[arg-type]
    rank.take_step(step)
    published.append(rank.publish())
    return {"published": checksums(published), "step": step, "read": sum(read)}


def checkpoints_of_three(folder: Path) -> dict[str, Any]:
    """Three ranks go on from what two saved, and save."""
    rank = Rank.of(half_model())
    holder = Holder(rank.optimizer, version=-1, visits={})
    step = load_learner(holder, folder / "two")  # type: ignore[arg-type]
    rank.take_step(step)
    save_learner(holder, folder / "three")  # type: ignore[arg-type]
    published = checksums([rank.publish()])
    return {"published": published, "at": [step, holder.version, holder.visits]}


def checksums(manifests: Sequence[WeightsManifest | None]) -> list[str | None]:
    """Of what was published; None on a rank that did not."""
    return [None if manifest is None else manifest.checksum for manifest in manifests]
