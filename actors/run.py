"""One training run on the connected cluster: start, step, draw pictures, save, restore, stop.

The command line and the RLlib algorithm are thin users of :class:`MeshRun`, which knows neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import ObjectLostError, RayTaskError

from actors.mesh import EventLoop, Mesh
from actors.metrics import StepGauges
from actors.parts import Part
from actors.saved import LEARNER, read_state, write_state
from actors.storage import config_for_actors
from alphagrpo.data import load_prompts
from alphagrpo.errors import CheckpointError, LearnerLost, WeightsError
from alphagrpo.files import make_folder
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest, RolloutPool

if TYPE_CHECKING:
    from typing import Self

    from alphagrpo.config import RunConfig
    from alphagrpo.types import WeightsManifest

log = logging.getLogger(__name__)
T = TypeVar("T")

STEP_ATTEMPTS = 3
"""How often a step is begun again after a process or an object was lost under it."""
CLIENTS = {
    "decomposer": "services.client:connect_decomposer",
    "verifier": "services.client:connect_verifier",
}
"""What a run uses unless it says otherwise. Names only: actors never import services."""


class MeshRun:
    """The actors of a run, the event loop that talks to them, and the training loop over both.

    Example::

        with MeshRun(config) as run:
            report = run.step()
            run.save(Path("checkpoint"))
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        decomposer: Part | None = None,
        verifier: Part | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Start all actors and wait until each has loaded its model.

        Args:
            config: of the run.
            decomposer: makes an :class:`alphagrpo.ports.Decomposer` in this process; default the
                project's client over the run's ``services`` section.
            verifier: makes an :class:`alphagrpo.ports.Verifier` in each runner; default likewise.
            tell: is given a line while actors wait for a node, now and after a death; default
                the log.

        Raises:
            MeshError: what an actor said when it could not start.
            EnvironmentProblem: where the cluster can have no room for the run, or had none for
                ``placement.deadline_s``.
        """
        self.config = config
        self._tell = tell
        self.parts = (decomposer or decomposer_client(config), verifier or verifier_client(config))
        self._saved: list[Path] = []
        self._gauges = StepGauges(config.name)
        self._events = EventLoop()
        try:
            self.mesh, self.loop = self.wait_for(self._start())
        except BaseException:
            self._events.close()
            raise

    async def _start(self) -> tuple[Mesh, TrainingLoop]:
        data, (decomposer, verifier) = self.config.data, self.parts
        prompts = load_prompts(
            data.train,
            num=data.num_train,
            thought_share=data.thought_share,
            seed=self.config.seed,
        )
        asker = decomposer.make()
        mesh = Mesh(config_for_actors(self.config), verifier, self._tell)
        try:
            await mesh.ready()
        except BaseException:
            mesh.close()
            raise
        loop = TrainingLoop(
            self.config, prompts, decomposer=asker, pool=mesh.pool, learner=mesh.learner
        )
        # A process of the learner begins with the weights of step 0, so that these two are a state.
        self._start_state = loop.state_dict()
        return mesh, loop

    def check_storage(self, folder: Path) -> None:
        """Raise EnvironmentProblem where an actor cannot read and write ``folder``, or sees another
        one under its name.
        """
        self.wait_for(self.mesh.check_storage(folder.absolute()))

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the mesh lives; what is interrupted is cancelled."""
        return self._events.run(work)

    def stop(self) -> None:
        """End the actors."""
        self._gauges.close()
        self.wait_for(self.loop.close())
        self.mesh.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what is known of it

    @property
    def pool(self) -> RolloutPool:
        """Where pictures are drawn."""
        return self.mesh.pool

    @property
    def step_number(self) -> int:
        """Steps of the training loop so far."""
        return self.loop.step

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Prompts of which no question could be made, and why."""
        return self.loop.prompts.set_aside

    def manifest(self) -> WeightsManifest:
        """Of the weights to draw with; published now where none are yet."""
        return self.wait_for(self.loop.ensure_published())

    # -- steps and pictures

    def step(self) -> StepReport:
        """Sample, score, learn, publish; begun again where a process died under it."""
        report = self.wait_for(self._step())
        self._gauges.observe(report.metrics)
        return report

    async def _step(self) -> StepReport:
        for attempt in range(1, STEP_ATTEMPTS + 1):
            try:
                return await self.loop.run_step()
            except (LearnerLost, WeightsError) as error:
                if attempt == STEP_ATTEMPTS:
                    raise
                await self._recover(error)
            except RayTaskError as error:
                # A group was lost with its node before the learner had read it: nothing was
                # trained, and the same groups are sampled again.
                if attempt == STEP_ATTEMPTS or not isinstance(error.cause, ObjectLostError):
                    raise
                log.warning("a group was lost, the step begins again: %s", error.cause)
        raise AssertionError("the last attempt returns or raises")

    async def _recover(self, error: LearnerLost | WeightsError) -> None:
        """Other ranks where one was lost, or the weights again that a registry died with.

        A runner may be the first to see either death: as weights that it cannot fetch.
        """
        loss = error if isinstance(error, LearnerLost) else await self._learner_loss()
        if loss is not None:
            await self._revive_learner(loss)
            return
        manifest = self.loop.manifest
        if manifest is None or await self.mesh.has_weights(manifest.version):
            raise error
        log.warning("the weight registry was lost; weights are published again")
        self.loop.manifest = None

    async def _learner_loss(self) -> LearnerLost | None:
        """Why the learner is lost, if it is."""
        try:
            await self.mesh.learner.status()
        except LearnerLost as loss:
            return loss
        return None

    async def _revive_learner(self, error: LearnerLost) -> None:
        """Another learner from the newest whole checkpoint, and the loop back to where that was
        taken; from the start of the run where nothing was saved yet.
        """
        saved = [folder for folder in reversed(self._saved) if folder.is_dir()]
        log.warning("the learner was lost; restoring %s", saved[0] if saved else "its start")
        await self.mesh.restart_learner()
        if not self._saved:
            await self.loop.close()
            self.loop.load_state_dict(self._start_state)
            return
        for folder in saved:
            try:
                await self._load(folder, read_state(folder))
            except CheckpointError as damage:
                log.warning("a checkpoint is passed over: %s", damage)
            else:
                return
        raise LearnerLost(
            f"{error} None of the {len(self._saved)} checkpoints that this process knows is "
            f"whole any more (the newest: {self._saved[-1]}): look for an older one with --resume"
        ) from error

    def draw(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures by the current weights, with the evaluation's settings."""
        version = self.manifest().version
        return self.wait_for(self.mesh.pool.draw(requests, version))

    # -- checkpoints: JSON and safetensors

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder, which must be reachable from the learner's node too.

        Raises LearnerLost where the learner died meanwhile; :meth:`revive` starts another.
        """
        folder = folder.absolute()
        make_folder(folder)
        self.wait_for(self.mesh.learner.save(str(folder / LEARNER)))
        decomposer, verifier = self.parts
        content = {
            "iteration": self.loop.step,
            "loop": self.loop.state_dict(),
            "config": {
                "run": self.config.model_dump(mode="json"),
                "decomposer": decomposer.to_json(),
                "verifier": verifier.to_json(),
            },
        }
        write_state(folder, content)
        self._remember(folder)

    def revive(self, error: LearnerLost) -> None:
        """Another learner in place of one that was lost outside a step, such as in :meth:`save`:
        it and the loop are at the newest whole checkpoint again.
        """
        self.wait_for(self._revive_learner(error))

    def restore(self, folder: Path, older: Sequence[Path] = ()) -> None:
        """Restore what :meth:`save` wrote; CheckpointError if it is not whole.

        ``older`` checkpoints of the run, oldest first, are what is left should this one be damaged
        by the time that a learner is lost.
        """
        folder = folder.absolute()
        self.wait_for(self._load(folder, read_state(folder)))
        self._saved = [path.absolute() for path in older]
        self._remember(folder)

    def _remember(self, folder: Path) -> None:
        """As the newest checkpoint, which a learner that is lost is restored from."""
        self._saved = [known for known in self._saved if known != folder] + [folder]

    async def _load(self, folder: Path, content: Mapping[str, Any]) -> None:
        await self.loop.close()
        await self.mesh.learner.load(str(folder / LEARNER))
        self.loop.load_state_dict(content["loop"])


def decomposer_client(config: RunConfig) -> Part:
    """The project's decomposer client; questions are kept in the run folder unless it says else."""
    store = config.folder / "questions"
    return Part(CLIENTS["decomposer"], config.services.decomposer_options(store, run=config.name))


def verifier_client(config: RunConfig) -> Part:
    """The project's verifier client."""
    return Part(CLIENTS["verifier"], config.services.verifier_options(run=config.name))
