"""AlphaGRPO as an RLlib algorithm, for ``train()``, checkpoints and Tune.

RLlib gives the outer shell (config, iterations, metrics, callbacks, Tune) round a
:class:`actors.run.MeshRun`, which does not need it. RLlib's own environment runners, learner group
and weight sync are not used: they drop calls to busy actors and write pickles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.callbacks.utils import make_callback
from ray.tune import PlacementGroupFactory
from ray.tune.result import TRIAL_INFO

from actors.parts import Part
from actors.run import MeshRun
from actors.saved import read_state
from alphagrpo.capacity import run_roles
from alphagrpo.config import RunConfig, parse_config
from alphagrpo.errors import ConfigError, LearnerLost
from alphagrpo.loop import StepReport
from alphagrpo.ports import Picture, PictureRequest
from alphagrpo.record.checkpoints import SAVE_ATTEMPTS

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class AlphaGRPOConfig(AlgorithmConfig):
    """``AlphaGRPOConfig().mesh(run=...)``; all other sections are RLlib's own.

    Holds JSON values only, so that a checkpoint of it needs no pickle.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or AlphaGRPO)
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

    def parts(self) -> tuple[Part | None, Part | None]:
        """Decomposer and verifier; None for the project's own clients."""
        decomposer, verifier = (
            Part.from_json(record) if record else None
            for record in (self.mesh_decomposer, self.mesh_verifier)
        )
        return decomposer, verifier


class AlphaGRPO(Algorithm):
    """AlphaGRPO over the mesh.

    Example::

        algo = AlphaGRPOConfig().mesh(run=run_config).build_algo()
        result = algo.train()
        algo.save_to_path("checkpoint")
        algo.stop()

    Under Tune every trial is a run of its own, ``<name>-<trial id>``, with actors, run folder and
    questions of that name; trials share their questions only where ``services.question_store``
    names a folder. A trial reserves what its run asks for, on nodes that the run's label selectors
    admit, so that as many trials train at once as the cluster has room for. It works in a folder
    of its own: give absolute paths in the run config, or set ``RAY_CHDIR_TO_TRIAL_DIR=0``.
    """

    config: AlphaGRPOConfig
    run: MeshRun
    last_report: StepReport | None = None
    """The last step with its samples, which RLlib's result has no room for."""

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """The config RLlib fills in."""
        return AlphaGRPOConfig(algo_class=cls)

    @staticmethod
    def _get_env_id_and_creator(env_specifier: Any, config: Any) -> Any:
        """There is no environment."""
        return None, None

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """What Tune reserves for a trial: driver, then runners and learner where they may be.

        Ray places actors inside a group of bundles by the same label selectors. What asks for
        nothing has no bundle.
        """
        if not isinstance(config, AlphaGRPOConfig):
            config = AlphaGRPOConfig(algo_class=cls).update_from_dict(dict(config))
        bundles: list[dict[str, float]] = [{"CPU": 1.0}]
        selectors: list[dict[str, str]] = [{}]
        for role in run_roles(config.run_config()):
            amounts = {"CPU": role.cpus, "GPU": role.gpus}
            bundle = {name: amount for name, amount in amounts.items() if amount > 0}
            if bundle:
                bundles += [bundle] * role.count
                selectors += [dict(role.selector)] * role.count
        return PlacementGroupFactory(bundles, bundle_label_selector=selectors)

    # -- life

    def __init__(self, config: Any = None, *args: Any, **options: Any) -> None:
        # RLlib drops what Tune says of the trial before Trainable looks for it (ray 2.60).
        self._trial = config.get(TRIAL_INFO) if isinstance(config, Mapping) else None
        super().__init__(config, *args, **options)

    def _setup_logdir(self) -> None:
        """Outside Tune there is nothing for RLlib to write, and no folder at home to make."""
        if self._storage is not None:
            super()._setup_logdir()
        else:
            folder: Any = tempfile.gettempdir()
            self._logdir = folder

    def setup(self, config: Any) -> None:
        """Start the actors and wait until they have loaded their models."""
        self.callbacks = [make() for make in _as_list(self.config.callbacks_class)]
        self.env_runner_group, self.env_to_module_connector = None, None
        self.module_to_env_connector = None
        self._set_up_metrics()
        run_config = self.config.run_config()
        if self._trial is not None:
            self._trial_info = self._trial
            name = f"{run_config.name}-{self.trial_id}"
            run_config = run_config.model_copy(update={"name": name})
        decomposer, verifier = self.config.parts()
        self.run = MeshRun(run_config, decomposer=decomposer, verifier=verifier)
        make_callback(
            "on_algorithm_init",
            self.callbacks,
            self.config.callbacks_on_algorithm_init,
            kwargs={"algorithm": self, "metrics_logger": self.metrics},
        )

    @property
    def run_config(self) -> RunConfig:
        """The run's config, with a trial's name."""
        return self.run.config

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the mesh lives, such as an evaluation over ``run.pool``."""
        return self.run.wait_for(work)

    def cleanup(self) -> None:
        """End the actors; RLlib calls this from ``stop()``."""
        if hasattr(self, "run"):
            self.run.stop()

    # -- steps

    def training_step(self) -> None:
        """One step of the training loop; its metrics become RLlib's result."""
        self.last_report = report = self.run.step()
        metrics: Any = self.metrics
        for name, value in report.metrics.items():
            metrics.log_value(tuple(name.split("/")), value, window=1)
        metrics.log_value(("learner", "version"), report.version, window=1)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Nothing to restore: the pool brings its own runners back."""
        return []

    def pictures(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures by the current weights, with the evaluation's settings."""
        return self.run.draw(requests)

    # -- checkpoints: those of the run, in place of RLlib's pickles

    def save_to_path(
        self, path: Any = None, *, state: Any = None, filesystem: Any = None, **options: Any
    ) -> str:
        """Write a checkpoint folder, which must be reachable from the learner's node too.

        Where the learner dies meanwhile, what is written is where the run then stands: at its
        newest whole checkpoint.
        """
        if state is not None or filesystem is not None:
            raise ConfigError(
                "an AlphaGRPO checkpoint is written whole into a folder, got a state or a file "
                "system; mount the storage and give a path"
            )
        folder = Path(path or tempfile.mkdtemp(prefix="alphagrpo-")).absolute()
        for attempt in range(1, SAVE_ATTEMPTS + 1):
            try:
                self.run.save(folder)
                break
            except LearnerLost as error:
                if attempt == SAVE_ATTEMPTS:
                    raise
                self.run.revive(error)
                self._iteration = self.run.step_number
        return str(folder)

    def restore_from_path(self, path: Any, *args: Any, **options: Any) -> None:
        """Restore what :meth:`save_to_path` wrote; CheckpointError if it is not whole."""
        self.run.restore(Path(path))
        self._iteration = self.run.step_number

    @classmethod
    def from_checkpoint(cls, path: Any, filesystem: Any = None, **options: Any) -> Any:
        """A new algorithm with the config of a checkpoint, continuing from it."""
        folder = Path(path.to_directory() if hasattr(path, "to_directory") else path)
        config = AlphaGRPOConfig().mesh(**read_state(folder)["config"])
        algorithm: Any = config.build_algo()
        algorithm.restore_from_path(folder)
        return algorithm

    def get_state(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The small half of the state; tensors are in checkpoints only."""
        return {"iteration": self.iteration, "loop": self.run.loop.state_dict()}


def _as_record(part: Part | Mapping[str, Any]) -> dict[str, Any]:
    return part.to_json() if isinstance(part, Part) else dict(part)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
