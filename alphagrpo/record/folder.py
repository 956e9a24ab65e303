"""A run's folder on disk: everything a run leaves behind, written so that a crash loses no line.

::

    runs/<name>/
      config.yaml        resolved config with package versions
      metrics.jsonl      one line per step
      summary.json       figures of the whole run
      evaluation/        before.jsonl, after.jsonl, probe.jsonl (the newest probe): one line per
                         held-out prompt
      ledger/            step-000001.parquet ...: one row per question asked
      kept-verdicts.parquet  what steps that are taken again were answered the first time
      images/            <sha256>.png
      checkpoints/       step-000040/
      report.html
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from alphagrpo.errors import ConfigError
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.files import write_atomically
from alphagrpo.json_records import from_json, to_json
from alphagrpo.record.ledger import read_ledger, rows_of_group, write_ledger
from alphagrpo.record.summary import RunSummary
from alphagrpo.record.verdicts import KEPT_VERDICTS, keep_verdicts
from alphagrpo.record.versions import package_versions

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.ports import GroupReport
    from alphagrpo.training import GroupWeights

STEP_PREFIX = "step-"
COMPLETE = "complete.json"
"""Marks a checkpoint to which everything was written."""


class RunFolder:
    """Reads and writes one run's folder; build it with :meth:`create`, :meth:`resume` or
    :meth:`open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: RunConfig) -> RunFolder:
        """A new folder for ``config``; ConfigError where it is already in use."""
        folder = cls(config.folder)
        folder.check_unused()
        for name in ("ledger", "images", "checkpoints", "evaluation"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        folder._write_config(config)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was started before; ConfigError where there is none."""
        if not (path / "config.yaml").is_file():
            raise ConfigError(
                f"a run folder must hold a config.yaml, {path} does not; give the folder that "
                "`alphagrpo train` wrote, such as runs/<name>"
            )
        return cls(path)

    @classmethod
    def resume(cls, config: RunConfig) -> tuple[RunFolder, Path | None]:
        """The folder of an interrupted run and its newest complete checkpoint, if it has one.

        What was recorded after that checkpoint is dropped, an evaluation after training included:
        those steps will be taken again, and the run evaluated at its new end. Raises ConfigError
        where there is no such run.
        """
        folder = cls.open(config.folder)
        for leftover in set(folder.checkpoints_path.glob("*")) - set(folder.checkpoints()):
            shutil.rmtree(leftover)
        newest = folder.newest_checkpoint()
        folder.rewind(0 if newest is None else step_of(newest))
        folder._evaluation_path("after").unlink(missing_ok=True)
        folder._write_config(config)
        return folder, newest

    def check_unused(self) -> None:
        """Raise ConfigError where a run has already written here."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                f"a run needs a folder of its own, {self.path} already holds one; continue it with "
                "--resume, choose another with --set name=..., or remove it"
            )

    # -- config, metrics, summary ------------------------------------------------------------

    @property
    def metrics_path(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of ``step-<number>`` folders."""
        return self.path / "checkpoints"

    @property
    def report_path(self) -> Path:
        """Where the report is written."""
        return self.path / "report.html"

    def _write_config(self, config: RunConfig) -> None:
        resolved = config.model_dump(mode="json") | {"versions": package_versions()}
        text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", text)

    def append_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the line of ``step`` to ``metrics.jsonl``; on disk when this returns."""
        line = json.dumps({"step": step, **metrics}, allow_nan=False, default=float)
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``; a last line cut by a crash is left out."""
        return read_json_lines(self.metrics_path)

    def write_summary(self, summary: RunSummary) -> None:
        """Replace ``summary.json``."""
        text = json.dumps(to_json(summary), indent=2)
        write_atomically(self.path / "summary.json", text + "\n")

    def summary(self) -> RunSummary:
        """``summary.json`` as a record; all absent where the run has not written one yet."""
        return from_json(RunSummary, self.summary_document())

    def summary_document(self) -> dict[str, Any]:
        """``summary.json`` as it stands; empty where the run has not written one yet."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def config(self) -> dict[str, Any]:
        """``config.yaml`` as a mapping."""
        return yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))

    # -- pictures and the ledger ---------------------------------------------------------------

    def save_picture(self, digest: str, png: bytes) -> Path:
        """Keep a picture under its content hash; writing it twice changes nothing."""
        path = self._picture_path(digest)
        if not path.exists():
            write_atomically(path, png)
        return path

    def picture(self, digest: str) -> bytes | None:
        """The PNG of a content hash, or None where it was not kept."""
        return self._picture_path(digest).read_bytes() if self.has_picture(digest) else None

    def has_picture(self, digest: str) -> bool:
        """Whether the picture of a content hash was kept."""
        return bool(digest) and self._picture_path(digest).is_file()

    def _picture_path(self, digest: str) -> Path:
        return self.path / "images" / f"{digest}.png"

    def record_step(
        self,
        step: int,
        reports: Sequence[GroupReport],
        training: Sequence[GroupWeights | None],
        skipped: Sequence[Mapping[str, Any]] = (),
    ) -> Path:
        """Write the ledger rows and the kept pictures of one step's groups.

        ``training`` has what the learner was given of each group; None where it was dropped.
        ``skipped`` are the rows of turns that gave no group.
        """
        rows = list(skipped)
        for index, (report, group) in enumerate(zip(reports, training, strict=True)):
            rows += rows_of_group(step, index, report, group)
            for sample in (*report.drafts, *report.samples):
                if sample.png is not None and sample.picture_hash:
                    self.save_picture(sample.picture_hash, sample.png)
        path = self.ledger_path(step)
        write_ledger(path, rows)
        return path

    def ledger_path(self, step: int) -> Path:
        """Where the ledger of a step is."""
        return self.path / "ledger" / f"{STEP_PREFIX}{step:06d}.parquet"

    def ledger(self, step: int | None = None) -> list[dict[str, Any]]:
        """Ledger rows of one step, or of all steps in order."""
        pattern = f"{STEP_PREFIX}*.parquet" if step is None else f"{STEP_PREFIX}{step:06d}.parquet"
        parts = sorted((self.path / "ledger").glob(pattern))
        return [row for part in parts for row in read_ledger(part)]

    def ledger_pictures(self, step: int) -> dict[int, set[str]]:
        """Content hashes of the pictures of each group of a step, by the group's place in it."""
        path = self.ledger_path(step)
        pictures: dict[int, set[str]] = {}
        for row in read_ledger(path, columns=("group", "picture")):
            pictures.setdefault(row["group"], set()).add(row["picture"])
        return pictures

    def ledger_steps(self) -> list[int]:
        """Steps that have a ledger, in order."""
        parts = (self.path / "ledger").glob(f"{STEP_PREFIX}*.parquet")
        return sorted(step_of(part) for part in parts)

    # -- evaluations -----------------------------------------------------------------------------

    def write_evaluation(self, phase: str, lines: Sequence[HeldOutLine]) -> None:
        """Replace ``evaluation/<phase>.jsonl``: one line per held-out prompt."""
        write_atomically(self._evaluation_path(phase), json_lines(map(to_json, lines)))

    def evaluation(self, phase: str) -> list[HeldOutLine]:
        """Lines of an evaluation; empty where it was not made."""
        return read_heldout_lines(self._evaluation_path(phase))

    def _evaluation_path(self, phase: str) -> Path:
        return self.path / "evaluation" / f"{phase}.jsonl"

    # -- checkpoints -----------------------------------------------------------------------------

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to save into; it counts only if the block ends without an error.

        It is marked and not renamed when it is whole, so that whoever has its path may keep it.
        """
        path = self.checkpoints_path / f"{STEP_PREFIX}{step:06d}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        yield path
        write_atomically(path / COMPLETE, json.dumps({"step": step}))

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        markers = self.checkpoints_path.glob(f"{STEP_PREFIX}*/{COMPLETE}")
        return sorted(marker.parent for marker in markers)

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        complete = self.checkpoints()
        return complete[-1] if complete else None

    def prune_checkpoints(self, keep: int) -> None:
        """Remove all but the ``keep`` newest checkpoints."""
        for path in self.checkpoints()[:-keep]:
            shutil.rmtree(path)

    def rewind(self, step: int) -> None:
        """Forget metrics and ledger rows of steps after ``step``, but keep their verdicts."""
        self.keep_verdicts(step)
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_atomically(self.metrics_path, json_lines(kept))
        for part in (self.path / "ledger").glob(f"{STEP_PREFIX}*.parquet"):
            if step_of(part) > step:
                part.unlink()

    def keep_verdicts(self, step: int) -> None:
        """Keep the verdicts that the ledger has of steps after ``step``: these are taken again."""
        parts = [self.ledger_path(number) for number in self.ledger_steps() if number > step]
        keep_verdicts(self.path / KEPT_VERDICTS, parts)


def find_learner(checkpoint: Path) -> Path | None:
    """The learner's folder of a checkpoint: the folder itself, or the one inside it; or None."""
    folders = (checkpoint, checkpoint / "learner")
    return next((folder for folder in folders if (folder / "learner.json").is_file()), None)


def step_of(path: Path) -> int:
    """The step in a name such as ``step-000040`` or ``step-000040.parquet``."""
    return int(path.name.split(".")[0].removeprefix(STEP_PREFIX))


def read_heldout_lines(path: Path) -> list[HeldOutLine]:
    """The lines that an evaluation wrote, see :mod:`alphagrpo.eval.lines`."""
    return [from_json(HeldOutLine, document) for document in read_json_lines(path)]


def json_lines(documents: Iterable[Mapping[str, Any]]) -> str:
    """The text of a JSON-lines file: one object per line."""
    return "".join(json.dumps(document) + "\n" for document in documents)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that a crash cut short is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
