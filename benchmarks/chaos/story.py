"""The run that is left alone, then the one that is not, on one cluster with its services."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from alphagrpo.record.folder import RunFolder
from benchmarks.chaos import files, processes
from benchmarks.chaos.cluster import cluster_with
from benchmarks.chaos.command import Command
from benchmarks.chaos.events import Event, Outcome
from benchmarks.chaos.verdict import Verdict, compare

T = TypeVar("T")

NAME = "chaos"
LONG, ENDED = 1_000_000, 143
"""More steps than events take; the exit code of a run that SIGTERM has ended."""
FOUND_S = 180.0
"""For a process of a role to be there again, whose last one has just died."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and what is done to it."""

    config: Path
    settings: tuple[str, ...]
    services: Path
    """A Serve file."""
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
        """Both runs; what became of each event is in :attr:`outcomes`.

        The disturbed one goes first, for as many steps as its events take; then the other takes as
        many.
        """
        with cluster_with(self._plan.services, self._plan.spare_cpus) as address:
            rough = self._command("rough", address, LONG)
            self._disturb(rough)
            calm = self._command("calm", address, rough.steps())
            calm.call()
            if code := calm.wait(3600.0):
                raise RuntimeError(f"the run that was left alone ended with {code}: {calm.words()}")
        metrics = RunFolder(calm.folder).metrics()
        self.usual_s = statistics.median(line["time/wall_s"] for line in metrics[1:])
        self._tell(f"left alone: {len(metrics)} steps, {self.usual_s:.2f} s each")
        self.outcomes = [
            replace(outcome, recovery_s=max(outcome.recovery_s - self.usual_s, 0.0))
            for outcome in self.outcomes
        ]
        return compare(calm.folder, rough.folder)

    def _command(self, part: str, address: str, num_steps: int) -> Command:
        output = self._folder / part
        output.mkdir(parents=True, exist_ok=True)
        settings = (
            f"name={NAME}",
            f"output={output}",
            f"training.num_steps={num_steps}",
            *self._plan.settings,
        )
        return Command(self._plan.config, settings, output / NAME, {"RAY_ADDRESS": address})

    def _disturb(self, command: Command) -> None:
        command.call()
        for event in self._plan.events:
            self._come_to(command, command.steps() + event.steps)
            time.sleep(event.delay)
            self.outcomes.append(self._strike(command, event))
        self._come_to(command, command.steps() + 1)
        if (code := command.end()) != ENDED:
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
        struck, number = 0, 0
        if kind.role == "driver":
            self._end_driver(command, event)
        else:
            found = self._of_role(kind.role)
            struck, number = found[int(event.choice * len(found))], len(found)
            processes.strike(struck, kind.action)
        again = self._come_to(command, before + 1)
        if kind.action == "stop":
            self._replaced(kind.role, struck, number)
        outcome = Outcome(
            event=event,
            recovery_s=time.monotonic() - begun,
            resumed=again and kind.role != "driver",
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
        return self._until(lambda: processes.pids(role, NAME), role)

    def _replaced(self, role: str, struck: int, number: int) -> None:
        """Until as many processes of a role live as before, and the struck one does not."""

        def all_others() -> bool:
            found = processes.pids(role, NAME)
            return struck not in found and len(found) >= number

        self._until(all_others, role)

    def _until(self, found: Callable[[], T], role: str) -> T:
        end = time.monotonic() + FOUND_S
        while not (what := found()):
            if time.monotonic() > end:
                raise RuntimeError(f"no process of the role {role} for {FOUND_S:g} s")
            time.sleep(0.2)
        return what
