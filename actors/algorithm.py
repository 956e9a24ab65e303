"""The front door: AlphaGRPO as an RLlib algorithm, for ``train()``, checkpoints and Tune.

RLlib gives the outer shell (config, iterations, metrics, callbacks, Tune). Everything inside a step
is ours: :class:`alphagrpo.loop.TrainingLoop` over the actors of :mod:`actors.mesh`. RLlib's own
environment runners, learner group and weight sync are not used: they drop calls to busy actors and
write pickles.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import ObjectLostError, RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.tune import PlacementGroupFactory

from actors.config import AlphaGRPOConfig
from actors.learner import LearnerDied
from actors.mesh import EventLoop, Mesh
from actors.metrics import StepGauges
from alphagrpo.config import RunConfig
from alphagrpo.data import load_prompts
from alphagrpo.errors import CheckpointError, ConfigError
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest

log = logging.getLogger(__name__)

STATE, LEARNER = "mesh.json", "learner"
FORMAT = 1
"""Raised whenever a checkpoint of an older format can no longer be read."""
STEP_ATTEMPTS = 3
"""How often a step is begun again after a process or an object was lost under it."""


class AlphaGRPO(Algorithm):
    """AlphaGRPO over the mesh.

    Example::

        algo = AlphaGRPOConfig().mesh(run=run_config).build_algo()
        result = algo.train()
        algo.save_to_path("checkpoint")
        algo.stop()

    Under Tune a trial works in a folder of its own: give absolute paths in the run config, or set
    ``RAY_CHDIR_TO_TRIAL_DIR=0``.
    """

    config: AlphaGRPOConfig
    run_config: RunConfig
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
        """What Tune reserves for a trial: driver, runners, learner."""
        if not isinstance(config, AlphaGRPOConfig):
            config = AlphaGRPOConfig(algo_class=cls).update_from_dict(dict(config))
        run = config.run_config()
        runner = _bundle(run.rollout.cpus_per_runner, run.rollout.gpus_per_runner)
        learner = _bundle(run.learner.cpus, run.learner.gpus)
        bundles = [{"CPU": 1.0}, learner, *[runner] * run.rollout.num_runners]
        return PlacementGroupFactory([bundle for bundle in bundles if bundle])

    # -- life

    def _setup_logdir(self) -> None:
        """Outside Tune there is nothing for RLlib to write, and no folder at home to make."""
        if self._storage is not None:
            super()._setup_logdir()
        else:
            folder: Any = tempfile.gettempdir()
            self._logdir = folder

    def setup(self, config: Any) -> None:
        """Start the actors and wait until they have loaded their models."""
        self.callbacks = [made() for made in _as_list(self.config.callbacks_class)]
        self.env_runner_group, self.env_to_module_connector = None, None
        self.module_to_env_connector = None
        self._set_up_metrics()
        run = self.config.run_config()
        if self.trial_id not in (None, "default"):
            run = run.model_copy(update={"name": f"{run.name}-{self.trial_id}"})
        self.run_config = run
        self._checkpoint: Path | None = None
        self._gauges = StepGauges(run.name)
        self._events = EventLoop()
        try:
            self.loop = self.ask(self._start(run))
        except BaseException:
            self._events.close()
            raise
        make_callback(
            "on_algorithm_init",
            self.callbacks,
            self.config.callbacks_on_algorithm_init,
            kwargs={"algorithm": self, "metrics_logger": self.metrics},
        )

    async def _start(self, run: RunConfig) -> TrainingLoop:
        data = run.data
        prompts = load_prompts(
            data.train, num=data.num_train, thought_share=data.thought_share, seed=run.seed
        )
        decomposer = self.config.decomposer_part().make()
        self.mesh = Mesh(run, self.config.verifier_part())
        try:
            await self.mesh.ready()
        except BaseException:
            self.mesh.close()
            raise
        return TrainingLoop(
            run, prompts, decomposer=decomposer, pool=self.mesh.pool, learner=self.mesh.learner
        )

    def ask(self, work: Any) -> Any:
        """Run a coroutine where the mesh lives, such as an evaluation over ``self.mesh.pool``."""
        return self._events.run(work)

    def cleanup(self) -> None:
        """End the actors; RLlib calls this from ``stop()``."""
        if hasattr(self, "mesh"):
            self.ask(self.loop.close())
            self.mesh.close()
            self._events.close()

    # -- steps

    def training_step(self) -> None:
        """One step of the training loop; its metrics become RLlib's result."""
        self.last_report = report = self.ask(self._step())
        metrics: Any = self.metrics
        for name, value in report.metrics.items():
            metrics.log_value(tuple(name.split("/")), value, window=1)
        metrics.log_value(("learner", "version"), report.version, window=1)
        self._gauges.observe(report.metrics)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Nothing to restore: the pool brings its own runners back."""
        return []

    async def _step(self) -> StepReport:
        for attempt in range(1, STEP_ATTEMPTS + 1):
            try:
                return await self.loop.run_step()
            except LearnerDied as error:
                if attempt == STEP_ATTEMPTS:
                    raise
                await self._revive_learner(error)
            except RayTaskError as error:
                # A group was lost with its node before the learner had read it: nothing was
                # trained, and the same groups are drawn again.
                if attempt == STEP_ATTEMPTS or not isinstance(error.cause, ObjectLostError):
                    raise
                log.warning("a group was lost, the step begins again: %s", error.cause)
        raise AssertionError("the last attempt returns or raises")

    async def _revive_learner(self, error: LearnerDied) -> None:
        """Another learner from the last checkpoint, and the loop back to where that was taken."""
        saved = self._checkpoint
        if saved is None and self.loop.step > 0:
            raise LearnerDied(
                f"{error} No checkpoint was written before step {self.loop.step}: "
                "start the run again, with a smaller training.checkpoint_every"
            ) from error
        log.warning("the learner died; restoring %s", saved or "its start, no step was lost")
        await self.mesh.restart_learner()
        if saved is not None:
            await self._load(saved, _read_state(saved))
        else:
            self.loop.manifest = None

    def pictures(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures by the current weights, with the evaluation's settings."""

        async def draw() -> tuple[Picture, ...]:
            manifest = await self.loop.ensure_published()
            return await self.mesh.pool.draw(requests, manifest.version)

        return tuple(self.ask(draw()))

    # -- checkpoints: JSON and safetensors in place of RLlib's pickles

    def save_to_path(
        self, path: Any = None, *, state: Any = None, filesystem: Any = None, **options: Any
    ) -> str:
        """Write a checkpoint folder, which must be reachable from the learner's node too.

        ``mesh.json`` is written last: a folder that has it is whole.
        """
        if state is not None or filesystem is not None:
            raise ConfigError(
                "an AlphaGRPO checkpoint is written whole into a folder, got a state or a file "
                "system; mount the storage and give a path"
            )
        folder = Path(path or tempfile.mkdtemp(prefix="alphagrpo-")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.ask(self.mesh.learner.save(str(folder / LEARNER)))
        if not (folder / LEARNER).is_dir():
            raise CheckpointError(
                f"the learner's node must see {folder}, nothing it wrote is here; "
                "use storage that all nodes share"
            )
        content = {
            "format": FORMAT,
            "iteration": self.iteration,
            "loop": self.loop.state_dict(),
            "config": self.config.mesh_state(),
        }
        partial = folder / f"{STATE}.partial"
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(partial, folder / STATE)
        self._checkpoint = folder
        return str(folder)

    def restore_from_path(self, path: Any, *args: Any, **options: Any) -> None:
        """Restore what :meth:`save_to_path` wrote; CheckpointError if it is not whole."""
        folder = Path(path).absolute()
        content = _read_state(folder)
        self.ask(self._load(folder, content))
        self._iteration = int(content["iteration"])
        self._checkpoint = folder

    async def _load(self, folder: Path, content: dict[str, Any]) -> None:
        await self.loop.close()
        await self.mesh.learner.load(str(folder / LEARNER))
        self.loop.load_state_dict(content["loop"])

    @classmethod
    def from_checkpoint(cls, path: Any, filesystem: Any = None, **options: Any) -> Any:
        """A new algorithm with the config of a checkpoint, continuing from it."""
        folder = Path(path.to_directory() if hasattr(path, "to_directory") else path)
        config = AlphaGRPOConfig().mesh(**_read_state(folder)["config"])
        algorithm: Any = config.build_algo()
        algorithm.restore_from_path(folder)
        return algorithm

    def get_state(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The small half of the state; tensors are in checkpoints only."""
        return {"iteration": self.iteration, "loop": self.loop.state_dict()}


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"a checkpoint needs {STATE}, {path} does not exist; it was not finished: "
            "resume from an earlier one"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} must be JSON ({error}); resume from an earlier one"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} must be of format {FORMAT}; resume with what wrote it")
    return content


def _bundle(cpus: float, gpus: float) -> dict[str, float]:
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount > 0}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
