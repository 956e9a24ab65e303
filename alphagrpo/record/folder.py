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
      checkpoints/       step-000040/, see alphagrpo.record.checkpoints
      report.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from alphagrpo.errors import ConfigError
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.files import needing_room, remove_partials, write_atomically
from alphagrpo.json_records import from_json, to_json
from alphagrpo.record.checkpoints import Checkpoints, ResumePoint
from alphagrpo.record.jsonl import check_metrics, json_lines, read_heldout_lines, read_metrics
from alphagrpo.record.ledger import read_ledger, rows_of_group, write_ledger
from alphagrpo.record.manifest import STEP_PREFIX, step_of
from alphagrpo.record.summary import RunSummary
from alphagrpo.record.verdicts import KEPT_VERDICTS, keep_verdicts
from alphagrpo.record.versions import package_versions

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.ports import GroupReport
    from alphagrpo.training import GroupWeights

FOLDERS = ("ledger", "images", "checkpoints", "evaluation")


class RunFolder:
    """Reads and writes one run's folder; build it with :meth:`create`, :meth:`resume` or
    :meth:`open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoints = Checkpoints(path / "checkpoints")

    @classmethod
    def create(cls, config: RunConfig) -> RunFolder:
        """A new folder for ``config``; ConfigError where it is already in use."""
        folder = cls(config.folder)
        folder.check_unused()
        with needing_room(folder.path):
            for name in FOLDERS:
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
    def resume(
        cls, config: RunConfig, point: ResumePoint | None = None
    ) -> tuple[RunFolder, Path | None]:
        """The folder of an interrupted run and the checkpoint it goes on from, if it has one.

        What was recorded after that checkpoint is dropped, an evaluation after training included:
        those steps will be taken again, and the run evaluated at its new end. Checkpoints of later
        steps, and damaged ones, are moved aside.

        Args:
            config: of the run.
            point: where to go on, as :meth:`resume_point` found it; default the newest whole one.

        Raises ConfigError where there is no such run.
        """
        folder = cls.open(config.folder)
        point = point or folder.resume_point()
        folder._checkpoints.settle(point)
        folder.rewind(point.step)
        folder.evaluation_path("after").unlink(missing_ok=True)
        remove_partials(folder.path, *(folder.path / name for name in FOLDERS))
        folder._write_config(config)
        return folder, point.checkpoint

    def resume_point(self, step: int | None = None) -> ResumePoint:
        """The newest whole checkpoint, or that of ``step``, with every byte of it compared.

        Changes nothing. Raises ConfigError where there is none, or a line of metrics up to its
        step is broken.
        """
        point = self._checkpoints.find(step)
        self.metrics(until=point.step)
        return point

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
    def summary_path(self) -> Path:
        """Figures of the whole run."""
        return self.path / "summary.json"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of ``step-<number>`` folders."""
        return self._checkpoints.path

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
        line = json.dumps({"step": step, **metrics}, allow_nan=False, default=float) + "\n"
        check_metrics(json.loads(line))
        with (
            needing_room(self.metrics_path, len(line)),
            self.metrics_path.open("a", encoding="utf-8") as file,
        ):
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def metrics(self, until: int | None = None) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``, or those up to a step; one cut by a crash is left out.

        Raises ConfigError, with file and line, where one is broken.
        """
        return read_metrics(self.metrics_path, until)

    def write_summary(self, summary: RunSummary) -> None:
        """Replace ``summary.json``."""
        text = json.dumps(to_json(summary), indent=2)
        write_atomically(self.summary_path, text + "\n")

    def summary(self) -> RunSummary:
        """``summary.json`` as a record; all absent where the run has not written one yet.

        Raises ConfigError where it is broken.
        """
        try:
            return from_json(RunSummary, self.summary_document())
        except ConfigError as error:
            raise ConfigError(f"{self.summary_path}: {error}") from None

    def summary_document(self) -> dict[str, Any]:
        """``summary.json`` as it stands; empty where the run has not written one yet."""
        path = self.summary_path
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(
                f"{path} must be JSON ({error}); remove it: the run writes it again"
            ) from None

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
        write_atomically(self.evaluation_path(phase), json_lines(map(to_json, lines)))

    def evaluation(self, phase: str) -> list[HeldOutLine]:
        """Lines of an evaluation; empty where it was not made."""
        return read_heldout_lines(self.evaluation_path(phase))

    def evaluation_path(self, phase: str) -> Path:
        """Where the lines of a phase are: before, probe or after."""
        return self.path / "evaluation" / f"{phase}.jsonl"

    # -- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """A folder to save into; it counts only if the block ends without an error."""
        return self._checkpoints.writing(step)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return self._checkpoints.complete()

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        complete = self.checkpoints()
        return complete[-1] if complete else None

    def prune_checkpoints(self, keep: int) -> None:
        """Remove all but the ``keep`` newest checkpoints."""
        self._checkpoints.prune(keep)

    def rewind(self, step: int) -> None:
        """Forget metrics and ledger rows of steps after ``step``, but keep their verdicts."""
        self.keep_verdicts(step)
        write_atomically(self.metrics_path, json_lines(self.metrics(until=step)))
        for part in (self.path / "ledger").glob(f"{STEP_PREFIX}*.parquet"):
            if step_of(part) > step:
                part.unlink()

    def keep_verdicts(self, step: int) -> None:
        """Keep the verdicts that the ledger has of steps after ``step``: these are taken again."""
        parts = [self.ledger_path(number) for number in self.ledger_steps() if number > step]
        keep_verdicts(self.path / KEPT_VERDICTS, parts)
