"""A small training loop for the miniature models: resumable, bounded in steps or minutes, with EMA.

::

    state = fit(model, loss, TrainSettings(steps=2000, checkpoint=folder), resume=True)

``loss(step, rng)`` samples its own batch from ``rng`` and returns the scalar loss and any figures
to show. Every step's generators are seeded from (seed, step) alone, so a run that was stopped and
resumed takes the same batches as one that was not. The learning rate rises linearly, then falls as
a cosine that is exactly zero at the last step; under a time budget "last" means when it is spent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alphagrpo.errors import ConfigError
from miniature.training_state import CHECKPOINT_NAME, load_training, save_training

LossFn = Callable[[int, np.random.Generator], tuple[Tensor, Mapping[str, float]]]
"""(step, rng) to (scalar loss with gradient, figures to show)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How long and how fast. At least one of ``steps`` and ``minutes`` is set."""

    steps: int | None = None
    minutes: float | None = None
    """Time budget, counted over all resumed parts; the first of both bounds ends the run."""
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    """On matrices only; norms, biases and scalars are left alone."""
    warmup: int = 60
    """Steps of linear rise."""
    clip_norm: float = 1.0
    ema: float = 0.995
    """Decay of the averaged weights; 0 switches averaging off."""
    seed: int = 0
    checkpoint: Path | None = None
    """Folder of the resumable state; None keeps none."""
    checkpoint_seconds: float = 60.0
    report_every: int = 20
    """Steps between two progress reports."""
    evaluate_every: int = 0
    """Steps between two calls of ``evaluate``; 0 for never."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("training is bounded by steps or minutes, got neither; set one")
        if any(bound is not None and bound <= 0 for bound in (self.steps, self.minutes)):
            raise ConfigError(
                f"steps and minutes are positive, got {self.steps}, {self.minutes}; raise them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """One report of a run in progress."""

    step: int
    """Steps done."""
    fraction: float
    """Share of the run that is done, in [0, 1]."""
    loss: float
    """Mean since the last report."""
    learning_rate: float
    steps_per_second: float
    seconds: float
    """Training time, earlier parts included."""
    seconds_left: float
    figures: Mapping[str, float]
    """Means of what the loss function reported, and the latest evaluation's figures."""


@dataclass(slots=True)
class TrainState:
    """Where a run stands; ``fit`` returns the last one."""

    step: int = 0
    seconds: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)
    """Averaged parameters by name; empty when averaging is off."""
    figures: dict[str, float] = field(default_factory=dict)
    """The latest means and evaluation figures."""


def cosine_factor(fraction: float, step: int, warmup: int) -> float:
    """Learning-rate factor: min(1, (step+1)/warmup) · (1 + cos(π·fraction))/2, 0 at fraction 1."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    # cos(pi) is not exactly -1 after rounding of pi * fraction, so the end is stated.
    return 0.0 if fraction >= 1.0 else rise * 0.5 * (1.0 + math.cos(math.pi * fraction))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two AdamW groups of the trainable parameters: matrices decay, everything else does not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


@contextmanager
def averaged_weights(model: nn.Module, ema: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block the model runs on the averaged weights; outside on its own again."""
    named = dict(model.named_parameters())
    kept = {name: named[name].detach().clone() for name in ema}
    with torch.no_grad():
        for name, value in ema.items():
            named[name].copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                named[name].copy_(value)


class _Run:
    """One run's moving parts: optimizer, averages, clock."""

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            decay_groups(model, settings.weight_decay),
            lr=settings.learning_rate,
            betas=settings.betas,
            fused=True,
        )
        self.state = TrainState()
        self.path = settings.checkpoint / CHECKPOINT_NAME if settings.checkpoint else None
        if settings.ema > 0:
            self.state.ema = {n: p.detach().clone() for n, p in self.named.items()}

    def fraction(self, step: int) -> float:
        """Share of the run that is done once ``step`` steps are."""
        parts = [0.0]
        if self.settings.steps is not None:
            parts.append(step / self.settings.steps)
        if self.settings.minutes is not None:
            parts.append(self.state.seconds / (60.0 * self.settings.minutes))
        return min(1.0, max(parts))

    def step(self, loss: LossFn) -> tuple[float, Mapping[str, float], float]:
        """One optimizer step: (loss, figures, learning rate)."""
        settings, step = self.settings, self.state.step
        seed = np.random.SeedSequence((settings.seed, step))
        torch.manual_seed(int(seed.generate_state(1)[0]))
        factor = cosine_factor(self.fraction(step + 1), step, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        value, figures = loss(step, np.random.default_rng(seed))
        if not math.isfinite(float(value.detach())):
            raise FloatingPointError(
                f"the loss stays finite, got {float(value.detach())} at step {step}; "
                "lower the learning rate and resume from the checkpoint"
            )
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), settings.clip_norm)
        self.optimizer.step()
        self._average(step)
        self.state.step = step + 1
        return float(value.detach()), figures, settings.learning_rate * factor

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if not self.state.ema:
            return
        # A young average would otherwise be mostly the random start.
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.state.ema.values()),
            [self.named[name].detach() for name in self.state.ema],
            1.0 - decay,
        )

    def evaluated(self, evaluate: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """What ``evaluate`` says of the averaged weights."""
        self.model.eval()
        with averaged_weights(self.model, self.state.ema), torch.no_grad():
            figures = dict(evaluate())
        self.model.train()
        return figures

    def finish(self) -> None:
        """Leave the averaged weights in the model."""
        with torch.no_grad():
            for name, average in self.state.ema.items():
                self.named[name].copy_(average)

    def save(self) -> None:
        """Write the checkpoint, where one is kept."""
        if self.path is not None:
            counters = {"step": self.state.step, "seconds": self.state.seconds}
            save_training(self.path, self.named, self.state.ema, self.optimizer, counters)

    def load(self) -> None:
        """Continue from the checkpoint, where there is one."""
        if self.path is not None and self.path.exists():
            counters = load_training(self.path, self.named, self.state.ema, self.optimizer)
            self.state.step, self.state.seconds = int(counters["step"]), counters["seconds"]


@dataclass(slots=True)
class _Window:
    """Running means between two reports."""

    count: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, figures: Mapping[str, float], seconds: float) -> None:
        self.count += 1
        self.loss += loss
        self.seconds += seconds
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: value / self.count for name, value in self.sums.items()}


def _report(run: _Run, window: _Window, rate: float) -> TrainProgress:
    fraction = run.fraction(run.state.step)
    return TrainProgress(
        step=run.state.step,
        fraction=fraction,
        loss=window.loss / window.count,
        learning_rate=rate,
        steps_per_second=window.count / max(window.seconds, 1e-9),
        seconds=run.state.seconds,
        seconds_left=run.state.seconds * (1.0 - fraction) / max(fraction, 1e-9),
        figures=dict(run.state.figures),
    )


def fit(
    model: nn.Module,
    loss: LossFn,
    settings: TrainSettings,
    *,
    resume: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    stop_after: int | None = None,
) -> TrainState:
    """Train ``model`` in place and leave the averaged weights in it at the end.

    ``evaluate`` runs every ``settings.evaluate_every`` steps, on the averaged weights; its figures
    join the reports. ``stop_after`` interrupts after that many steps in all, checkpoint written,
    the model left as it is (what an interrupted run looks like). Seeds torch's global generator
    at each step.

    Raises:
        CheckpointError: ``resume`` met a file that is broken or of another model.
    """
    run, window = _Run(model, settings), _Window()
    if resume:
        run.load()
    model.train()
    saved = time.perf_counter()
    try:
        while run.fraction(run.state.step) < 1.0 and run.state.step != stop_after:
            begun = time.perf_counter()
            value, figures, rate = run.step(loss)
            window.add(value, figures, time.perf_counter() - begun)
            run.state.seconds += time.perf_counter() - begun
            done = run.fraction(run.state.step) >= 1.0
            if settings.evaluate_every and evaluate is not None:
                if done or run.state.step % settings.evaluate_every == 0:
                    run.state.figures.update(run.evaluated(evaluate))
            if done or run.state.step % settings.report_every == 0:
                run.state.figures.update(window.means())
                if progress is not None:
                    progress(_report(run, window, rate))
                window = _Window()
            if time.perf_counter() - saved > settings.checkpoint_seconds:
                run.save()
                saved = time.perf_counter()
    finally:
        # Also on Ctrl-C: at most the step in hand is lost.
        run.save()
    if run.fraction(run.state.step) >= 1.0:
        run.finish()
    model.eval()
    return run.state
