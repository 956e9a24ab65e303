"""The RLlib config of AlphaGRPO: a run config, and where decomposer and verifier come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from actors.parts import Part
from alphagrpo.config import RunConfig, parse_config
from alphagrpo.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

CLIENTS = {
    "decomposer": "services.client:connect_decomposer",
    "verifier": "services.client:connect_verifier",
}
"""What a run uses unless it says otherwise. Names only: actors never import services."""


class AlphaGRPOConfig(AlgorithmConfig):
    """``AlphaGRPOConfig().mesh(run=...)``; all other sections are RLlib's own.

    Holds JSON values only, so that a checkpoint of it needs no pickle.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        if algo_class is None:
            from actors.algorithm import AlphaGRPO

            algo_class = AlphaGRPO
        super().__init__(algo_class=algo_class)
        self.mesh_run: dict[str, Any] = {}
        self.mesh_overrides: dict[str, Any] = {}
        self.mesh_decomposer: dict[str, Any] = {}
        self.mesh_verifier: dict[str, Any] = {}
        # There is no environment runner whose connectors RLlib could synchronise.
        self._dont_auto_sync_env_runner_states = True

    def mesh(
        self,
        *,
        run: RunConfig | Mapping[str, Any] | Any = NotProvided,
        overrides: Mapping[str, Any] | Any = NotProvided,
        decomposer: Part | Mapping[str, Any] | Any = NotProvided,
        verifier: Part | Mapping[str, Any] | Any = NotProvided,
    ) -> Self:
        """Set what the mesh runs.

        Args:
            run: the run config.
            overrides: dotted keys of the run config to values, which Tune may search over:
                ``{"optimizer.lr": tune.grid_search([1e-5, 5e-5])}``.
            decomposer: makes an :class:`alphagrpo.ports.Decomposer` in the driver; default the
                project's client over the run's ``services`` section.
            verifier: makes an :class:`alphagrpo.ports.Verifier` in each runner; default likewise.
        """
        if run is not NotProvided:
            self.mesh_run = run.model_dump(mode="json") if isinstance(run, RunConfig) else dict(run)
        if overrides is not NotProvided:
            self.mesh_overrides = dict(overrides)
        if decomposer is not NotProvided:
            self.mesh_decomposer = _as_record(decomposer)
        if verifier is not NotProvided:
            self.mesh_verifier = _as_record(verifier)
        return self

    def validate(self) -> None:
        """RLlib's checks, then the run config's."""
        super().validate()
        self.run_config()

    def run_config(self) -> RunConfig:
        """The run config with the overrides applied; ConfigError where it is not valid."""
        if not self.mesh_run:
            raise ConfigError("AlphaGRPO needs a run config; call AlphaGRPOConfig().mesh(run=...)")
        raw = parse_config(dict(self.mesh_run)).model_dump(mode="json")
        for key, value in self.mesh_overrides.items():
            *parents, leaf = key.split(".")
            node: Any = raw
            for parent in parents:
                node = node.get(parent)
                if not isinstance(node, dict):
                    raise ConfigError(f"override {key!r} names no section of the run config")
            node[leaf] = value
        return parse_config(raw, source="the run config with overrides")

    def decomposer_part(self) -> Part:
        """How the driver makes its decomposer."""
        return self._part("decomposer", self.mesh_decomposer)

    def verifier_part(self) -> Part:
        """How each runner makes its verifier."""
        return self._part("verifier", self.mesh_verifier)

    def _part(self, role: str, record: Mapping[str, Any]) -> Part:
        if record:
            return Part(record["path"], record["arguments"])
        run = self.run_config()
        services = run.services
        arguments: dict[str, Any] = {
            "app": services.decomposer_app if role == "decomposer" else services.verifier_app,
            "max_concurrency": services.max_concurrency,
            "deadline_s": services.deadline_s,
            "max_attempts": services.max_attempts,
        }
        if role == "decomposer":
            arguments["question_store"] = str(services.question_store or run.folder / "questions")
        return Part(CLIENTS[role], arguments)

    def mesh_state(self) -> dict[str, Any]:
        """Arguments of :meth:`mesh` that make this config again; JSON values."""
        return {
            "run": dict(self.mesh_run),
            "overrides": dict(self.mesh_overrides),
            "decomposer": dict(self.mesh_decomposer),
            "verifier": dict(self.mesh_verifier),
        }


def _as_record(part: Part | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(part, Part):
        return {"path": part.path, "arguments": dict(part.arguments)}
    return dict(part)
