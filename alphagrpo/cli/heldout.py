"""A run's looks at its held-out prompts: at all of them at both ends, at the same few between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator
from alphagrpo.data import load_heldout
from alphagrpo.eval.figures import probe_metrics, share_all_right, summarise
from alphagrpo.eval.heldout import evaluate
from alphagrpo.eval.probe import PROMPT_SET, probe_prompts, prompt_set
from alphagrpo.record.curve import heldout_curve, probed_ids

if TYPE_CHECKING:
    from actors.run import MeshRun
    from alphagrpo.config import RunConfig
    from alphagrpo.eval.heldout import HeldOutJudges
    from alphagrpo.eval.lines import HeldOutLine
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.types import Prompt


class HeldOutEvaluations:
    """Draws and judges held-out pictures, and writes what came of them into the run folder."""

    def __init__(
        self, config: RunConfig, mesh_run: MeshRun, folder: RunFolder, narrator: Narrator
    ) -> None:
        self._config, self._settings = config, config.evaluation
        self._mesh_run, self._folder, self._narrator = mesh_run, folder, narrator
        self._prompts = load_heldout(
            config.data.heldout,
            num_plain=self._settings.num_plain,
            num_thought=self._settings.num_thought,
            seed=config.seed,
        )
        self._probed = self._choose_probe()
        before = folder.evaluation("before")
        curve = heldout_curve(folder.metrics(), before, (), probed_ids(folder, before))
        self.share = curve.newest_share
        """Share all right of the probe's prompts, as they were last looked at; None if unknown."""

    def whole(self, phase: str) -> None:
        """All held-out prompts, both judges, pictures kept for the report."""
        if not self._prompts:
            return
        with self._narrator.stage(f"evaluating {phase}"):
            lines = self._judge(self._prompts, self._judges(services=True), f"evaluating {phase}")
        self._folder.write_evaluation(phase, lines)
        self._probed = self._choose_probe()
        self.share = self._share_of_probe(lines)

    def probe(self, step: int) -> dict[str, float]:
        """A small look after some steps; by the oracle alone where there is one.

        Returns figures for the step's metrics.
        """
        every = self._settings.every
        if every is None or step % every or not self._prompts:
            return {}
        judges = self._judges(services=False)
        if judges.oracle is None:
            judges = self._judges(services=True)
        lines = self._judge(self._probed, judges, None)
        self._folder.write_evaluation("probe", lines)
        self.share = self._share_of_probe(lines)
        ids = [prompt.id for prompt in self._probed]
        return {**probe_metrics(summarise(lines)), PROMPT_SET: prompt_set(ids)}

    def _choose_probe(self) -> list[Prompt]:
        """The prompts that every probe is of: all, where the run makes no probes."""
        if self._settings.every is None:
            return list(self._prompts)
        before = self._folder.evaluation("before")
        return probe_prompts(self._prompts, before, self._settings.num_probe)

    def _share_of_probe(self, lines: Sequence[HeldOutLine]) -> float | None:
        ids = {prompt.id for prompt in self._probed}
        return share_all_right(summarise([line for line in lines if line.id in ids]))

    def _judge(
        self, prompts: Sequence[Prompt], judges: HeldOutJudges, counted: str | None
    ) -> list[HeldOutLine]:
        with ExitStack() as stack:
            tell = None
            if counted:
                tell = stack.enter_context(self._narrator.counted(counted, len(prompts)))
            return self._mesh_run.wait_for(
                evaluate(
                    self._mesh_run.pictures,
                    prompts,
                    judges,
                    version=self._mesh_run.manifest().version,
                    seed=self._config.seed,
                    batch_size=self._settings.batch_size * self._config.rollout.num_runners,
                    rounds=self._settings.rounds if counted else 0,
                    keep=self._folder.save_picture if counted else None,
                    on_progress=(lambda done, of: tell(done)) if tell else None,
                )
            )

    def _judges(self, *, services: bool) -> HeldOutJudges:
        from alphagrpo.cli.evaluate import judges_of

        return judges_of(self._config, services=services)
