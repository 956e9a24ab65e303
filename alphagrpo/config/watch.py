"""Watching the judge while a run goes on: what is looked at, and what is an alarm."""

from __future__ import annotations

from pydantic import Field, model_validator

from alphagrpo.config.sampling import Section


class WatchConfig(Section):
    """The judge watch, see docs/watch.md. An alarm is told; it ends a run only with ``stop``.

    Without further settings it costs nothing: it looks at the hashes of a step's pictures, at the
    pictures that are kept anyway, and at the figures of probes that have an oracle.
    """

    canary: str | None = None
    """Pictures with known answers that the run's verifier is asked about: a JSON-lines file, or
    ``shapes:N``, N renders of the miniature world. None: it is asked nothing.
    """
    every: int = Field(20, ge=1)
    """Steps between two times that the canary, or ``heldout_app``, is asked."""
    max_drift: float = Field(0.05, gt=0, le=1)
    """Largest fall of the canary's accuracy, rise of its mean |P(yes) - answer|, or mean change of
    P(yes), against the first time it was asked.
    """
    heldout_app: str | None = None
    """The Serve application of a second verifier, which rewards nothing. It is asked about the
    step's kept pictures. None: the held-out judge is the oracle of the probes, if there is one.
    """
    window: int = Field(10, ge=8)
    """Looks of the held-out judge over which a trend is sought."""
    min_fall: float = Field(0.02, ge=0)
    """Fall of the held-out figure, between the medians of the window's halves, below which there is
    none.
    """
    max_same_share: float = Field(0.5, gt=0, le=1)
    """Largest share of a step's pictures that may be one picture, or of one colour."""
    min_spread: float = Field(0.01, ge=0, lt=1)
    """Standard deviation over a step's kept pictures, mean over pixels, white being 1, below which
    they are nearly the same.
    """
    repeat_steps: int = Field(10, ge=1)
    """Steps over which a picture that was drawn for another prompt is remembered."""
    max_repeat_share: float = Field(0.1, gt=0, le=1)
    """Largest share of a step's pictures that may have been drawn for another prompt too."""
    stop: bool = False
    """Whether the first alarm ends training after a checkpoint; the run can be resumed."""

    @model_validator(mode="after")
    def _has_a_canary(self) -> WatchConfig:
        if self.canary is not None and self.canary.startswith("shapes:"):
            number = self.canary.removeprefix("shapes:")
            if not number.isdecimal() or int(number) < 1:
                raise ValueError(
                    "a canary of the shapes world is shapes:N with N pictures, got "
                    f"{self.canary!r}; write for example shapes:32"
                )
        return self
