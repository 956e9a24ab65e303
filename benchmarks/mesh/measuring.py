"""One row: the real loop, pool and learner client over some processes, for a few steps."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import process_time
from typing import Any
from unittest.mock import patch

from actors import runners as runners_module
from actors.parts import Handle, Part
from actors.pool import RayRolloutPool
from alphagrpo.config import RunConfig, parse_config
from alphagrpo.loop import TrainingLoop
from alphagrpo.prompt_iterator import PromptIterator
from alphagrpo.types import Prompt
from benchmarks.mesh.processes import RUN, Mesh, Processes
from benchmarks.mesh.stages import Stages, Work
from benchmarks.mesh.stand_ins import Decomposer

FEW, ALL = 6, 45
"""Questions of a prompt: the miniature's, and the released recipe's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A config and how long its stages take."""

    label: str
    runners: int
    prompts: int
    """Groups of a step."""
    stages: Stages
    ranks: int = 1
    rollout: Mapping[str, Any] = field(default_factory=dict)
    """More of the config's section ``rollout``."""
    learner: Mapping[str, Any] = field(default_factory=dict)
    """More of ``learner``."""
    std: str = "group"
    """``algorithm.advantage_std``."""
    late_s: float = 0.0
    """Seconds that the verdicts of each step's first group take; 0: as the others."""
    questions: int = FEW
    """Of each prompt."""
    steps: int = 4
    """To run; the first fills the pipeline and is not counted."""

    @property
    def streamed_without_lag(self) -> bool:
        """Whether learning can begin while its step is still drawn, and no earlier."""
        rollout, learner = self.config.rollout, self.config.learner
        return learner.streamed and rollout.max_lag == 0

    @property
    def config(self) -> RunConfig:
        """A run config that says so."""
        return parse_config(
            {
                "name": RUN,
                "model": {"path": "nowhere"},
                "task": {"system_prompt": "plan first", "height": 512, "width": 512},
                "data": {"train": "nowhere", "heldout": "nowhere"},
                "algorithm": {"advantage_std": self.std},
                "rollout": {
                    "num_runners": self.runners,
                    "prompts_per_step": self.prompts,
                    **self.rollout,
                },
                "learner": {"ranks": self.ranks, **self.learner},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Over the counted steps of a row."""

    row: Row
    wall_s: float
    """Of a step: the median, and the mean where steps overlap (lag)."""
    work: Work
    """The mean."""
    driver_ms: float
    """Median CPU of the driver's process, all its threads, per group."""
    central_ms: float
    """Median CPU of the central learner's process per group; 0 where the driver has its front."""

    @property
    def ratio(self) -> float:
        """Wall over T*; 0 where no stage takes time."""
        return self.wall_s / self.work.bound_s if self.work.bound_s else 0.0

    @property
    def draw_busy(self) -> float:
        """Share of the runners' time that went into drawing."""
        return self.work.draw_s / self.wall_s

    @property
    def learn_busy(self) -> float:
        """Share of the ranks' time that went into learning."""
        return self.work.learn_s / self.wall_s


async def measure(row: Row, processes: Processes) -> Measured:
    """Run the row on ``processes``, by the clock of the event loop."""
    config, clock = row.config, asyncio.get_running_loop().time
    # No prompt comes twice, also not in the steps that lag begins ahead.
    number = row.prompts * (row.steps + 3)
    prompts = [Prompt(id=f"p{i}", text=f"picture {i}") for i in range(number)]
    stages = _with_late_groups(row, prompts)
    mesh = await processes.prepare(config, stages)
    with patch.object(runners_module, "start_runner", lambda _, index, __: mesh.runners[index]):
        pool = RayRolloutPool(config, Part("nowhere:verifier"))
    decomposer = Decomposer(row.questions)
    loop = TrainingLoop(config, prompts, decomposer=decomposer, pool=pool, learner=mesh.learner)
    walls, jobs, driver, central = [], [], [], []
    try:
        for _ in range(row.steps):
            central_s, driver_s, begun = await _cpu_s(mesh), process_time(), clock()
            report = await loop.run_step()
            walls.append(clock() - begun)
            driver.append(process_time() - driver_s)
            central.append(await _cpu_s(mesh) - central_s)
            jobs.append([group.job for group in report.groups])
    finally:
        await loop.close()
    middle = statistics.fmean if config.rollout.max_lag else statistics.median
    return Measured(
        row=row,
        wall_s=middle(walls[1:]),
        work=Work.of(jobs[1:], stages, config),
        driver_ms=1000 * statistics.median(driver[1:]) / row.prompts,
        central_ms=1000 * statistics.median(central[1:]) / row.prompts,
    )


def _with_late_groups(row: Row, prompts: list[Prompt]) -> Stages:
    """The row's stages, where the first group of each step has late verdicts."""
    if not row.late_s:
        return row.stages
    order = PromptIterator(prompts, row.config.seed, Decomposer(1), lookahead=0)
    firsts = range(0, len(prompts), row.prompts)
    late = frozenset(order.at(position)[0].id for position in firsts)
    return replace(row.stages, late=late, late_s=row.late_s)


async def _cpu_s(mesh: Mesh) -> float:
    """Of the central learner's process so far."""
    return 0.0 if mesh.central is None else float((await mesh.central.status.remote())["cpu_s"])


async def bare_calls_ms(runners: Sequence[Handle], rounds: int = 10) -> float:
    """CPU milliseconds of the driver for what a group takes at least: a call with two returns, one
    of which is awaited, and a call with one. Nothing travels with them. Median over the rounds.
    """

    async def pair(handle: Handle) -> None:
        first, _ = handle.nothing.options(num_returns=2).remote()
        await first
        await handle.nothing.remote()

    costs = []
    for _ in range(rounds):
        begun = process_time()
        await asyncio.gather(*(pair(handle) for handle in runners for _ in range(4)))
        costs.append(1000 * (process_time() - begun) / (4 * len(runners)))
    return statistics.median(costs)
