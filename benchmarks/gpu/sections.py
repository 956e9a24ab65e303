"""The measurements, each a few rows; one that fails says so and leaves the others alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch

from alphagrpo.models import weights
from alphagrpo.models.unified import Context
from alphagrpo.options import Thinking
from alphagrpo.policy.contexts import Branches, read_prefix
from alphagrpo.policy.denoising import start_noise
from alphagrpo.policy.fit import cases as memory_cases
from alphagrpo.policy.recipe import Recipe
from alphagrpo.policy.repeatability import REPEATS, attention_shapes, try_attention
from alphagrpo.policy.static_thinking import thought_sampler
from alphagrpo.policy.thinking import Thought
from alphagrpo.policy.timing import TERA, group_work
from alphagrpo.types import Group, Trajectory
from benchmarks.gpu.card import kernels_of, peak_gb, seconds
from benchmarks.gpu.subject import Subject, scored
from benchmarks.kernel_cases import cases
from benchmarks.timing import Roofs, compare, runnable

KERNEL_REPEATS = 5
WAYS: tuple[Thinking, ...] = ("eager", "static", "auto")
WAY_NAMES = {"eager": "token by token", "static": "static buffers", "auto": "CUDA graphs"}


class Row(NamedTuple):
    """One figure and what it is to be compared with."""

    what: str
    value: str
    beside: str = ""


@dataclass(slots=True)
class Bench:
    """What the sections share, and what earlier ones left."""

    subject: Subject
    roofs: Roofs
    tokens: int
    """Of the thoughts whose sampling is timed."""
    groups: list[Group] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """The card."""
        return self.subject.device

    @property
    def tflops(self) -> float:
        """The roof of products."""
        return self.roofs.product / TERA


def repeatability(bench: Bench) -> Iterator[Row]:
    """Whether the run's attention gives one input one result, and which kernel each block has."""
    subject = bench.subject
    shapes = list(dict.fromkeys(attention_shapes(subject.config, subject.shape)))
    for trial in try_attention(subject.model, shapes):
        verdict = "always the same bits" if not trial.differing else f"{trial.differing} others"
        yield Row(str(trial.shape), verdict, f"{trial.kernel}, {REPEATS} calls")


def kernels(bench: Bench) -> Iterator[Row]:
    """Each kernel against eager torch, as ``python -m benchmarks.kernels`` does at more length."""
    for case in cases():
        able, refused = runnable(case.contenders)
        first = next(iter(case.contenders))
        for row in compare(
            case.name, able, first, case.truth, case.work, bench.roofs,
            repeats=KERNEL_REPEATS, calls=case.calls,
        ):  # fmt: skip
            ratio = "" if row.ratio is None else f"{row.ratio:.2f} x eager, "
            yield Row(
                f"{row.case}, {row.contender}",
                f"{row.milliseconds:.3g} ms",
                f"{ratio}{row.roof:.0%} of the roof",
            )
        for name, reason in refused.items():
            yield Row(f"{case.name}, {name}", "does not run", reason)


def thinking(bench: Bench) -> Iterator[Row]:
    """A token of all samples, three ways, which must give the same ids."""
    context = _prefix(bench.subject)
    found: dict[str, list[Thought]] = {}
    for way in WAYS:
        sample = thought_sampler(bench.subject.model, way, bench.device)

        def think(sample: Callable[..., list[Thought]] = sample) -> list[Thought]:
            return sample(
                context,
                seeds=range(context.batch),
                samples=[0] * context.batch,
                sampling=bench.subject.config.rollout.text,
                max_tokens=bench.tokens,
            )

        found[way] = think()  # what is made at first use, graphs too
        took = seconds(think, 1 if way == "eager" else 3)
        kernels = kernels_of(think)
        longest = max(len(thought.ids) for thought in found[way])
        counted = "" if kernels is None else f"{kernels.number / longest:.0f} kernels a token, "
        idle = "" if kernels is None else f"idle {kernels.idle:.0%}"
        yield Row(
            f"a token of {context.batch} samples, {WAY_NAMES[way]}",
            f"{1e3 * took / longest:.2f} ms",
            counted + idle,
        )
    first = [_first_difference(found[way], found["eager"]) for way in WAYS]
    places = [place for place in first if place is not None]
    same = f"differ from token {min(places)} on" if places else "the same"
    yield Row("ids of all three", same, "on a GPU a near tie may fall otherwise")


def denoising(bench: Bench) -> Iterator[Row]:
    """One step with all branches, its share of the roof, its kernels."""
    subject = bench.subject
    config, model = subject.config, subject.model
    recipe = Recipe.of(config, "rt2i")
    context = _prefix(subject)
    branches = Branches.of(context, model.empty_context(1).expand(context.batch))
    grid = subject.worker.grid
    shape = (grid[0] * grid[1], model.latent_channels)
    x = start_noise([1] * context.batch, range(context.batch), shape, bench.device)
    plan = recipe.plan(recipe.window(1))
    number = plan.num_branches(0)

    @torch.no_grad()
    def step() -> object:
        return branches.velocities(model, x, plan.times[0], grid, number)

    step()
    took = seconds(step, 3)
    tokens = shape[0] + 2
    flops = number * context.batch * subject.shape.forward_flops(tokens, context.length + tokens)
    rate = flops / TERA / took
    share = rate / bench.tflops
    yield Row(
        f"one denoising forward, {number} x {context.batch} x {tokens} tokens",
        f"{took:.3f} s",
        f"{rate:.0f} TFLOP/s, {share:.0%} of the roof",
    )
    if kernels := kernels_of(step):
        yield Row("its kernels", f"{kernels.number}", f"idle {kernels.idle:.1%}")


def drawing(bench: Bench) -> Iterator[Row]:
    """A group as a runner draws it, twice: the same bits."""
    subject, job = bench.subject, bench.subject.job(0)
    claimed = _claimed(bench, "runner")
    drawn: list[Group] = []
    took: list[float] = []

    def draw() -> None:
        took.append(seconds(lambda: drawn.append(subject.worker.sample_group(job))))

    allocated, reserved = peak_gb(draw)
    draw()
    bench.groups = drawn[:1]
    pictures = len(drawn[0].trajectories)
    yield Row(
        f"a group of {pictures} drawn", f"{statistics.median(took):.2f} s",
        f"{pictures / min(took):.2f} pictures/s",
    )  # fmt: skip
    same = all(_same(a, b) for a, b in zip(*(group.trajectories for group in drawn), strict=True))
    yield Row("drawn again", "the same bits" if same else "OTHER BITS")
    yield Row("peak of drawing", f"{allocated:.1f} GB", f"reserved {reserved:.1f}; {claimed}")


def learning(bench: Bench) -> Iterator[Row]:
    """A group learnt: gate, seconds, share of the roof, memory; then another, after the update."""
    subject = bench.subject
    before = bench.groups or [subject.worker.sample_group(subject.job(0))]
    yield from _learnt(bench, before[0], "before any update")
    yield from _moved(bench)
    yield from _learnt(bench, subject.worker.sample_group(subject.job(1)), "after an update")


def _learnt(bench: Bench, group: Group, when: str) -> Iterator[Row]:
    subject = bench.subject
    batch = scored(group, subject.config)
    metrics: dict[str, float] = {}
    took: list[float] = []

    def learn() -> None:
        took.append(seconds(lambda: metrics.update(subject.learner.update(batch).metrics)))

    allocated, reserved = peak_gb(learn)
    longest = max(len(t.text.token_ids) for t in group.trajectories if t.text is not None)
    work = group_work(
        subject.config, subject.shape, subject.size,
        samples=len(group.trajectories), thought_tokens=longest,
        recomputed=min(1.0, subject.learner.recomputed / subject.shape.num_layers),
    )  # fmt: skip
    rate = work.learning / took[0]
    for part in ("image", "text"):
        ratio = metrics[f"{part}/max_abs_log_ratio"]
        yield Row(f"largest |log ratio| of {part}, {when}", f"{ratio:.3g}")
    share = rate / bench.tflops
    yield Row(
        f"a group learnt, {when}",
        f"{took[0]:.2f} s",
        f"{rate:.0f} TFLOP/s, {share:.0%} of the roof",
    )
    claimed = _claimed(bench, "learner")
    yield Row("peak of learning", f"{allocated:.1f} GB", f"reserved {reserved:.1f}; {claimed}")


def _moved(bench: Bench) -> Iterator[Row]:
    """Weights published and applied, beside one copy of the same bytes to the host and back."""
    subject = bench.subject
    exported: list[tuple[object, ...]] = []
    export_s = seconds(lambda: exported.append(subject.learner.export()))
    manifest, chunks = subject.learner.export()
    apply_s = seconds(lambda: weights.apply(subject.worker.parameters, manifest, chunks))
    tensors = list(subject.worker.parameters.values())

    def copied() -> None:
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(tensor.cpu())

    plain_s = seconds(copied, 3)
    yield Row(
        f"{manifest.nbytes / 1e6:.0f} MB published and applied",
        f"{export_s:.2f} + {apply_s:.2f} s",
        f"a plain copy there and back: {plain_s:.2f} s",
    )
    subject.worker.apply_weights(manifest, chunks)
    effect = subject.worker.effect
    yield Row("their effect on the policy's output", f"{effect or 0.0:.2g}", "relative; 0 is none")


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "repeatability": repeatability,
    "kernels": kernels,
    "thinking": thinking,
    "denoising": denoising,
    "drawing": drawing,
    "learning": learning,
}


def _prefix(subject: Subject) -> Context:
    """What a group's samples have read before they think."""
    tokenizer, config = subject.worker.tokenizer, subject.config
    system = np.asarray(tokenizer.encode(config.task.system_prompt), np.int64)
    prompt = np.asarray(tokenizer.encode(subject.job(0).prompt.text), np.int64)
    prefix = read_prefix(subject.model, system, [prompt])
    return prefix.full.expand(config.rollout.group_size)


def _claimed(bench: Bench, role: str) -> str:
    subject = bench.subject
    for case in memory_cases(subject.config, subject.shape, subject.size):
        if case.name.split(",")[0] == role:
            return f"the dry run says {case.peak_bytes / 1e9:.1f}"
    return ""


def _first_difference(thoughts: list[Thought], others: list[Thought]) -> int | None:
    """The first token at which any of the thoughts differ."""
    places = [
        place
        for one, other in zip(thoughts, others, strict=True)
        for place, (a, b) in enumerate(zip_longest(one.ids.tolist(), other.ids.tolist()))
        if a != b
    ]
    return min(places, default=None)


def _same(one: Trajectory, other: Trajectory) -> bool:
    """Whether two trajectories have the same thoughts and the same picture, to the bit."""
    pairs = zip(one.texts, other.texts, strict=True)
    texts = all(np.array_equal(a.token_ids, b.token_ids) for a, b in pairs)
    a, b = one.image, other.image
    return texts and np.array_equal(a.latents, b.latents) and np.array_equal(a.pixels, b.pixels)
