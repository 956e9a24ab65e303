"""The training command as its user calls it: started, watched, and called again where it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.walk.hosts import ROOT

PATIENCE_S = 600.0
"""Without a new step for so long a run is given up: it hangs."""
LOOK_S = 0.05


class Hangs(RuntimeError):
    """No step came for a long time."""


class Command:
    """``alphagrpo train`` with one run's settings, in a process of its own."""

    def __init__(
        self, config: Path, settings: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        """``folder``: the run's, in which its steps are watched."""
        self._words = ["train", str(config), *(w for s in settings for w in ("--set", s))]
        self.folder, self._environment = folder, {**os.environ, **environment}
        self._log = folder.parent / f"{folder.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.calls = 0

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self._process is None else self._process.poll()

    def call(self, *words: str) -> None:
        """Start it; its words go to a log beside the run's folder."""
        program = ROOT / ".venv/bin/alphagrpo"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(program), *self._words, *words],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.calls += 1

    def steps(self) -> int:
        """The last step that is written down."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return 0
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in reversed(lines):
            try:
                return int(json.loads(line)["step"])
            except (ValueError, KeyError):
                continue
        return 0

    def wait_for_step(self, step: int) -> bool:
        """Wait until ``step`` is written down, or the process has ended: False.

        Raises:
            Hangs: where no step came for :data:`PATIENCE_S`.
        """
        last, since = self.steps(), time.monotonic()
        while self.steps() < step:
            if self.ended is not None:
                return self.steps() >= step
            if (now := self.steps()) != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE_S:
                raise Hangs(f"no step after {last} for {PATIENCE_S:g} s; see {self._log}")
            time.sleep(LOOK_S)
        return True

    def wait(self, limit_s: float = PATIENCE_S) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(limit_s)

    def end(self) -> int:
        """Ask it to end, as a scheduler does; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def words(self) -> str:
        """The end of what it said, for errors."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return text[-3000:]
