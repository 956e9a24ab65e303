"""A run's report while the run goes on: written again and again, and never what ends the run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator

if TYPE_CHECKING:
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.summary import RunSummary
    from alphagrpo.report.view import Progress

log = logging.getLogger(__name__)


class LiveReport:
    """Writes summary and report of a run folder; what goes wrong with the report is only told."""

    def __init__(self, folder: RunFolder, narrator: Narrator) -> None:
        self._folder, self._narrator = folder, narrator

    def write(self, summary: RunSummary, progress: Progress | None) -> bool:
        """Replace both files; returns whether there is a new report.

        ``progress`` is that of a run that is under way: its page loads itself again.
        """
        try:
            from alphagrpo.report.render import write_report

            self._folder.write_summary(summary)
            write_report(self._folder, progress)
        except Exception as error:
            log.debug("the report could not be written", exc_info=True)
            self._narrator.say(
                f"the report could not be written ({type(error).__name__}: {error}); the run is "
                f"not touched by it, `alphagrpo report {self._folder.path}` writes the report again"
            )
            return False
        return True
