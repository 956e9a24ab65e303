"""A short chaos with services that stand in, in a process of its own: its verdict, as JSON.

A process joins one cluster in its life, and the tests' process has one. ``python -m
tests.short_chaos FOLDER`` kills the registry, the learner and the driver of a run, and damages its
newest checkpoint; runners are killed elsewhere (tests/cluster/test_actors.py).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from alphagrpo.cli.ray_start import set_environment
from benchmarks.chaos.__main__ import SETTINGS
from benchmarks.chaos.events import Event, Kind
from benchmarks.walk.hosts import ROOT

FOUND = "found.json"
KINDS = (
    Kind("kill", "registry", 1),
    Kind("kill", "learner", 1),
    Kind("damage", "learner", 1),
    Kind("kill", "driver", 1),
)


def main(folder: Path) -> None:
    set_environment(private=True)
    from benchmarks.chaos.story import Chaos, Plan
    from tests.stand_in_services import SERVICES

    services = folder / "services.yaml"
    services.write_text(yaml.safe_dump(SERVICES), encoding="utf-8")
    events = [Event(kind, steps=2, delay=0.3, choice=0.2) for kind in KINDS]
    chaos = Chaos(
        folder,
        Plan(
            config=ROOT / "deploy/configs/smoke.yaml",
            settings=(*SETTINGS, "learner.ranks=1", "training.keep_checkpoints=3"),
            services=services,
            events=tuple(events),
        ),
        tell=print,
    )
    verdict = chaos.go()
    found = {
        "verdict": asdict(verdict),
        "ended by": [outcome.event.kind.name for outcome in chaos.outcomes if outcome.resumed],
        "events": [outcome.event.kind.name for outcome in chaos.outcomes],
    }
    (folder / FOUND).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
