"""The run that is left alone, then the one that is not, on one cluster with its services."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alphagrpo.record.folder import RunFolder
from benchmarks.chaos import files, processes
from benchmarks.chaos.cluster import cluster_with
from benchmarks.chaos.command import Command
from benchmarks.chaos.events import Event, Outcome
from benchmarks.chaos.verdict import Verdict, compare

NAME = "chaos"
FOUND_S = 120.0
"""For a process of a role to be there again, whose last one has just died."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and what is done to it."""

    config: Path
    settings: tuple[str, ...]
    services: Path
    """A Serve file."""
    num_steps: int
    events: tuple[Event, ...]
    spare_cpus: int = 4
    """Logical CPUs of the run's own processes."""


class Chaos:
    """Tells what happens in lines."""

    def __init__(self, folder: Path, plan: Plan, tell: Callable[[str], None]) -> None:
        self._folder, self._plan, self._tell = folder, plan, tell
        self.usual_s = 0.0
        self.outcomes: list[Outcome] = []

    def go(self) -> Verdict:
        """Both runs; what became of each event is in :attr:`outcomes`."""
        with cluster_with(self._plan.services, self._plan.spare_cpus) as address:
            calm = self._command("calm", address)
            calm.call()
            code = calm.wait(3600.0)
            if code:
                raise RuntimeError(f"the run that was left alone ended with {code}: {calm.words()}")
            metrics = RunFolder(calm.folder).metrics()
            self.usual_s = statistics.median(line["time/wall_s"] for line in metrics[1:])
            self._tell(f"left alone: {len(metrics)} steps, {self.usual_s:.2f} s each")
            rough = self._command("rough", address)
            self._disturb(rough)
        return compare(calm.folder, rough.folder)

    def _command(self, part: str, address: str) -> Command:
        output = self._folder / part
        output.mkdir(parents=True, exist_ok=True)
        settings = (
            f"name={NAME}",
            f"output={output}",
            f"training.num_steps={self._plan.num_steps}",
            *self._plan.settings,
        )
        return Command(self._plan.config, settings, output / NAME, {"RAY_ADDRESS": address})

    def _disturb(self, command: Command) -> None:
        command.call()
        for event in self._plan.events:
            self._come_to(command, event.after_step)
            time.sleep(event.delay)
            self.outcomes.append(self._strike(command, event))
        while command.steps() < self._plan.num_steps:
            self._come_to(command, self._plan.num_steps)
        if code := command.wait():
            raise RuntimeError(f"the disturbed run ended with {code}: {command.words()}")

    def _come_to(self, command: Command, step: int) -> bool:
        """Until a step is written down; whether the command had to be called again for it."""
        again = False
        while not command.wait_for_step(step):
            again = True
            self._tell(f"the command ended with {command.ended} and is called again")
            command.call("--resume")
        return again

    def _strike(self, command: Command, event: Event) -> Outcome:
        kind, before, begun = event.kind, command.steps(), time.monotonic()
        if kind.action == "damage":
            files.damage_newest_checkpoint(command.folder, event.choice)
        if kind.role == "driver":
            self._end_driver(command, event)
        else:
            found = self._of_role(kind.role)
            processes.strike(found[int(event.choice * len(found))], kind.action)
        ended_by_us = kind.role == "driver"
        again = self._come_to(command, before + 1)
        outcome = Outcome(
            event=event,
            recovery_s=max(time.monotonic() - begun - self.usual_s, 0.0),
            resumed=again and not ended_by_us,
        )
        self._tell(f"step {before}: {kind.name}; recovered in {outcome.recovery_s:.1f} s")
        return outcome

    def _end_driver(self, command: Command, event: Event) -> None:
        """It ends, and is called again as its user would."""
        processes.strike(command.pid, "terminate" if event.kind.action == "terminate" else "kill")
        command.wait()
        if event.kind.action == "tear":
            files.tear_metrics(command.folder)
        command.call("--resume")

    def _of_role(self, role: str) -> Sequence[int]:
        end = time.monotonic() + FOUND_S
        while not (found := processes.pids(role, NAME)):
            if time.monotonic() > end:
                raise RuntimeError(f"no process of the role {role} for {FOUND_S:g} s")
            time.sleep(0.2)
        return found
