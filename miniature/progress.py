"""How far a pre-training has come, on a terminal or in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphagrpo.cli.console import Narrator, duration

if TYPE_CHECKING:
    from miniature.training import TrainProgress

LOGGED_SHARE = 0.02
"""Of a training's leg, between two lines in a log."""


class ProgressLines:
    """Shows a training's progress: a bar on a terminal, a line per 2 % of a leg in a log."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._told = -1.0

    def __call__(self, progress: TrainProgress, stage: str = "") -> None:
        """Show ``progress``, where a line is due; ``stage`` names the leg's model."""
        figures = "  ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
        text = (
            f"{stage} {progress.fraction:4.0%}  step {progress.step}  loss {progress.loss:.3f}  "
            f"{figures}  {progress.steps_per_second:.1f} steps/s  "
            f"left {duration(progress.seconds_left)}"
        ).strip()
        console = self._narrator.console
        if console.is_terminal:
            filled = round(30 * progress.fraction)
            bar = "█" * filled + "·" * (30 - filled)
            console.print(f"[cyan]{bar}[/cyan] {text}", end="\r", soft_wrap=True)
            if progress.fraction >= 1:
                console.print()
        elif self._is_due(progress.fraction):
            self._told = progress.fraction
            self._narrator.say(text)

    def _is_due(self, fraction: float) -> bool:
        # A fraction below the last one is the start of another leg of the same training.
        began_anew = fraction < self._told
        return began_anew or fraction >= min(1.0, self._told + LOGGED_SHARE)
