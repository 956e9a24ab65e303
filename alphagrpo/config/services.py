"""How a run reaches the two services, and how patient it is with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from alphagrpo.config.sampling import Section

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Patience(Section):
    """How patient a client of a service is: the one list of these settings and their defaults.

    :class:`ServiceConfig`, :class:`services.retry.CallPolicy` and
    :class:`services.settings.GatewaySettings` inherit it.
    """

    max_concurrency: Count = 16
    """Calls on the wire at once from one client: pictures in verification, prompts in
    decomposition.
    """
    deadline_s: Seconds = 300.0
    """Seconds from asking to answer, waiting and all retries included: while a service cannot be
    reached a call is sent again, as often as it takes. Longer than a replica takes to start, so
    that the death of the only one costs time and no answers.
    """

    def patience(self) -> dict[str, Any]:
        """These settings alone, as JSON values."""
        return {name: getattr(self, name) for name in Patience.model_fields}


class ServiceConfig(Patience):
    """How the run reaches the two services."""

    decomposer_app: str = "decomposer"
    verifier_app: str = "verifier"
    serve_config: Path | None = None
    """Deployed where its applications are not already running; None: they must be running."""
    question_store: Path | None = None
    """Folder of kept question sets; None: inside the run folder."""

    @property
    def applications(self) -> tuple[str, ...]:
        """Names of the Serve applications that the run asks."""
        return (self.decomposer_app, self.verifier_app)

    def verifier_options(self, *, run: str = "") -> dict[str, Any]:
        """The arguments of :func:`services.client.connect_verifier`, as JSON values.

        ``run``: on whose behalf, in the services' metrics.
        """
        return {"app": self.verifier_app, "run": run, **self.patience()}

    def decomposer_options(self, store: Path | None = None, *, run: str = "") -> dict[str, Any]:
        """The arguments of :func:`services.client.connect_decomposer`, as JSON values.

        ``store`` is the folder of question sets where the config names none; ``run`` as above.
        """
        folder = self.question_store or store
        return {
            "app": self.decomposer_app,
            "question_store": str(folder) if folder else None,
            "run": run,
            **self.patience(),
        }
