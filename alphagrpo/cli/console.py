"""What the commands print: progress that reads well on a terminal and in a job's log alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alphagrpo.report.cells import ratio_cell

LOG_WIDTH = 140
"""Columns where the output is no terminal: job logs do not wrap."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that never wraps lines in a log."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else LOG_WIDTH, highlight=False, stderr=stderr)


def print_table(
    console: Console, title: str, rows: Iterable[Sequence[str]], columns: Sequence[str] = ()
) -> None:
    """A table of text cells; without ``columns`` it has no header."""
    console.print(f"[bold]{escape(title)}[/bold]")
    table = Table(show_header=bool(columns), header_style="dim", box=None, padding=(0, 2, 0, 0))
    rows = list(rows)
    width = len(columns) or max((len(row) for row in rows), default=0)
    for index in range(width):
        table.add_column(columns[index] if columns else "", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    console.print()


def print_json(value: Any) -> None:
    """One JSON object on one line."""
    print(json.dumps(value, default=str), flush=True)


def duration(seconds: float) -> str:
    """``42 s``, ``9:32``, ``1:02:03``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Narrator:
    """Tells a run's story: stages, one line per step, evaluations.

    On a terminal counted work shows a bar; elsewhere it is a line now and then. With
    ``as_json`` every event is one JSON object on a line of its own instead; with ``aside`` the
    story goes to standard error, because standard output carries one JSON result.
    """

    def __init__(self, *, as_json: bool = False, aside: bool = False) -> None:
        self.as_json = as_json
        self.console = make_console(stderr=aside)
        self.started = perf_counter()

    def say(self, text: str, **fields: Any) -> None:
        """One line of the story."""
        if self.as_json:
            print_json({"event": "note", "text": text, **fields})
        else:
            # Not wrapped by this program: a command in it can be copied.
            line = f"[dim]{self._clock()}[/dim]  {escape(text)}"
            self.console.print(line, soft_wrap=True)

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """A piece of work that takes a while: said when it begins, timed when it ends."""
        self.say(f"{text} ...")
        start = perf_counter()
        yield
        elapsed_s = perf_counter() - start
        self.say(f"{text}: done in {duration(elapsed_s)}", seconds=round(elapsed_s, 2))

    def step(self, figures: Mapping[str, Any]) -> None:
        """One training step: step, reward, held-out share, samples per second, time left."""
        if self.as_json:
            print_json({"event": "step", **figures})
            return
        parts = [
            f"step {figures['step']:>4}/{figures['of']}",
            f"reward {_number(figures.get('reward'), '.3f')}",
            f"held-out {_share(figures.get('heldout'))}",
            f"{_number(figures.get('samples_per_s'), '.1f')} samples/s",
            f"|log ratio| {ratio_cell(figures.get('log_ratio'))}",
            f"left {duration(figures['left_s'])}",
        ]
        self.console.print(f"[dim]{self._clock()}[/dim]  " + "  ".join(parts))

    @contextmanager
    def counted(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work of a known size; the block calls what it is given with how much is done."""
        if self.as_json or not self.console.is_terminal:
            yield self._count_in_lines(text, total)
            return
        columns = (
            TextColumn("      {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(text, total=total)
            yield lambda done: progress.update(task, completed=done)

    def _count_in_lines(self, text: str, total: int) -> Callable[[int], None]:
        last_share = 0.0

        def tell(done: int) -> None:
            nonlocal last_share
            share = done / max(total, 1)
            if share - last_share >= 0.25 or done >= total:
                last_share = share
                self.say(f"{text}: {done}/{total}", done=done, total=total)

        return tell

    def _clock(self) -> str:
        return f"{duration(perf_counter() - self.started):>7}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
