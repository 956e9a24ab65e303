"""One training run on the connected cluster: start, step, draw pictures, save, restore, stop.

The command line and the RLlib algorithm are thin users of :class:`MeshRun`, which knows neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from actors.mesh import EventLoop, Mesh
from actors.metrics import StepGauges
from actors.parts import Part
from actors.recovery import Recovery
from actors.saved import LEARNER, read_state, refuse_torn, write_state
from actors.storage import config_for_actors
from actors.verdicts import keeping
from alphagrpo.data import load_prompts
from alphagrpo.errors import LearnerLost
from alphagrpo.files import make_folder
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest, PictureSource

if TYPE_CHECKING:
    from typing import Self

    from actors.pool import RayRolloutPool
    from alphagrpo.config import RunConfig
    from alphagrpo.types import WeightsManifest

log = logging.getLogger(__name__)
T = TypeVar("T")

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
        self._gauges = StepGauges(config.name)
        self._events = EventLoop()
        try:
            self.mesh, self.loop = self.wait_for(self._start())
        except BaseException:
            self._events.close()
            raise
        self._recovery = Recovery(config, self.mesh, self.loop)

    async def _start(self) -> tuple[Mesh, TrainingLoop]:
        data, (decomposer, verifier) = self.config.data, self.parts
        prompts = load_prompts(
            data.train,
            num=data.num_train,
            thought_share=data.thought_share,
            seed=self.config.seed,
        )
        asker = decomposer.make()
        verifier = keeping(verifier, self.config)
        mesh = Mesh(config_for_actors(self.config), verifier, self._tell)
        try:
            await mesh.ready()
        except BaseException:
            mesh.close()
            raise
        loop = TrainingLoop(
            self.config, prompts, decomposer=asker, pool=mesh.pool, learner=mesh.learner
        )
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
        self.wait_for(self.mesh.end())
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
    def pool(self) -> RayRolloutPool:
        """Where groups are drawn."""
        return self.mesh.pool

    @property
    def pictures(self) -> PictureSource:
        """Where an evaluation has its pictures drawn, whatever is lost meanwhile."""
        return _Pictures(self)

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
        return self.wait_for(self._recovery.surviving(self.loop.ensure_published))

    # -- steps and pictures

    def step(self) -> StepReport:
        """Sample, score, learn, publish; begun again where a process died under it."""
        report = self.wait_for(self._recovery.surviving(self.loop.run_step))
        self._gauges.observe(report.metrics)
        return report

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show figures of the last step that the loop knows nothing of, such as a watch's."""
        self._gauges.observe(metrics)

    def draw(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures by the current weights, with the evaluation's settings."""
        return self.wait_for(self.drawn(requests))

    async def drawn(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """As :meth:`draw`, where the mesh lives."""

        async def work() -> tuple[Picture, ...]:
            manifest = await self.loop.ensure_published()
            return await self.mesh.pool.draw(requests, manifest.version)

        return await self._recovery.surviving(work)

    # -- checkpoints: JSON and safetensors

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder, which must be reachable from the learner's node too.

        Raises LearnerLost where the learner died meanwhile; :meth:`revive` starts another.
        """
        folder = folder.absolute()
        make_folder(folder)
        self.wait_for(self.mesh.learner.save(str(folder / LEARNER)))
        refuse_torn(folder, self.loop.step)
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
        self._recovery.remember(folder)

    def revive(self, error: LearnerLost) -> None:
        """Another learner in place of one that was lost outside a step, such as in :meth:`save`:
        it and the loop are at the newest whole checkpoint again.
        """
        self.wait_for(self._recovery.revive(error))

    def restore(self, folder: Path, older: Sequence[Path] = ()) -> None:
        """Restore what :meth:`save` wrote; CheckpointError if it is not whole.

        ``older`` checkpoints of the run, oldest first, are what is left should this one be damaged
        by the time that a learner is lost.
        """
        folder = folder.absolute()
        self.wait_for(self._recovery.load(folder, read_state(folder)))
        self._recovery.remember(folder, older)


class _Pictures:
    """:class:`alphagrpo.ports.PictureSource` over a run."""

    def __init__(self, run: MeshRun) -> None:
        self._run = run

    async def draw(self, requests: Sequence[PictureRequest], version: int) -> tuple[Picture, ...]:
        """Pictures by the run's weights, of ``version`` unless a loss has set the run back."""
        return await self._run.drawn(requests)


def decomposer_client(config: RunConfig) -> Part:
    """The project's decomposer client; questions are kept in the run folder unless it says else."""
    store = config.folder / "questions"
    return Part(CLIENTS["decomposer"], config.services.decomposer_options(store, run=config.name))


def verifier_client(config: RunConfig) -> Part:
    """The project's verifier client."""
    return Part(CLIENTS["verifier"], config.services.verifier_options(run=config.name))
