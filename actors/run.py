"""One training run on the connected cluster: start, step, draw pictures, save, restore, stop.

The command line and the RLlib algorithm are thin users of :class:`MeshRun`, which knows neither.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import ObjectLostError, RayTaskError

from actors.mesh import EventLoop, Mesh
from actors.metrics import StepGauges
from actors.parts import Part
from actors.storage import config_for_actors
from actors.verdicts import keeping
from alphagrpo import files
from alphagrpo.data import load_prompts
from alphagrpo.errors import CheckpointError, LearnerLost, WeightsError
from alphagrpo.loop import StepReport, TrainingLoop
from alphagrpo.ports import Picture, PictureRequest, PictureSource
from alphagrpo.record.folder import RunFolder

if TYPE_CHECKING:
    from typing import Self

    from actors.pool import RayRolloutPool
    from alphagrpo.config import RunConfig
    from alphagrpo.types import WeightsManifest

log = logging.getLogger(__name__)
T = TypeVar("T")

STATE, LEARNER = "mesh.json", "learner"
FORMAT = 1
"""Raised whenever a checkpoint of an older format can no longer be read."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before work is begun again after a process or an object was lost under it, one time after
another."""
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
        self._checkpoint: Path | None = None
        self._recovering, self._recoveries = asyncio.Lock(), 0
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
        return self.wait_for(self._surviving(self.loop.ensure_published))

    # -- steps and pictures

    def step(self) -> StepReport:
        """Sample, score, learn, publish; begun again where a process died under it."""
        report = self.wait_for(self._surviving(self.loop.run_step))
        self._gauges.observe(report.metrics)
        return report

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show figures of the last step that the loop knows nothing of, such as a watch's."""
        self._gauges.observe(metrics)

    async def _surviving(self, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` returns, which is begun again once what was lost under it is restored."""
        pauses = iter(PAUSES_S)
        loss: Exception | None = None
        known = self._recoveries
        while True:
            try:
                if loss is not None:
                    await self._recover_once(loss, known)
                known = self._recoveries
                return await work()
            except (LearnerLost, WeightsError, RayTaskError) as error:
                if isinstance(error, RayTaskError) and not isinstance(error.cause, ObjectLostError):
                    raise
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                log.warning("begun again in %g s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                loss = error

    async def _recover_once(self, error: Exception, known: int) -> None:
        """Unless other work that met the same loss has done so since ``known`` recoveries."""
        async with self._recovering:
            if self._recoveries == known:
                await self._recover(error)
                self._recoveries += 1

    async def _recover(self, error: Exception) -> None:
        """Other ranks where one was lost, or the weights again that a registry died with.

        A runner may be the first to see either death: as weights that it cannot fetch. A group that
        was lost with its node before the learner had read it is only sampled again.
        """
        if isinstance(error, RayTaskError):
            return
        loss = error if isinstance(error, LearnerLost) else await self._learner_loss()
        if loss is not None:
            await self._revive_learner(loss)
            return
        manifest = self.loop.manifest
        if manifest is not None and not await self.mesh.has_weights(manifest.version):
            log.warning("the weight registry was lost; weights are published again")
        self.loop.manifest = None

    async def _learner_loss(self) -> LearnerLost | None:
        """Why the learner is lost, if it is."""
        limit_s = self.config.deadlines.ping_s
        try:
            await asyncio.wait_for(self.mesh.learner.status(), limit_s)
        except LearnerLost as loss:
            return loss
        except TimeoutError:
            return LearnerLost(
                f"a rank of the learner must say within deadlines.ping_s ({limit_s:g} s) that it "
                "lives, one did not; the ranks are started again from the last checkpoint"
            )
        return None

    async def _revive_learner(self, error: LearnerLost) -> None:
        """Another learner from the last checkpoint, and the loop back to where that was taken."""
        saved = self._checkpoint
        if saved is None and self.loop.step > 0:
            raise LearnerLost(
                f"{error} No checkpoint was written before step {self.loop.step}: "
                "start the run again, with a smaller training.checkpoint_every"
            ) from error
        log.warning("the learner was lost; restoring %s", saved or "its start, no step was lost")
        await self.mesh.restart_learner()
        if saved is not None:
            await self._load(saved, read_state(saved))
        else:
            self.loop.manifest = None

    def draw(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """Pictures by the current weights, with the evaluation's settings."""
        return self.wait_for(self.drawn(requests))

    async def drawn(self, requests: Sequence[PictureRequest]) -> tuple[Picture, ...]:
        """As :meth:`draw`, where the mesh lives."""

        async def work() -> tuple[Picture, ...]:
            manifest = await self.loop.ensure_published()
            return await self.mesh.pool.draw(requests, manifest.version)

        return await self._surviving(work)

    # -- checkpoints: JSON and safetensors

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder, which must be reachable from the learner's node too.

        ``mesh.json`` is written last: a folder that has it is whole.
        """
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.wait_for(self.mesh.learner.save(str(folder / LEARNER)))
        if not (folder / LEARNER).is_dir():
            raise CheckpointError(
                f"the learner's node must see {folder}, nothing it wrote is here; "
                "use storage that all nodes share"
            )
        _refuse_torn(folder / LEARNER, self.loop.step)
        decomposer, verifier = self.parts
        content = {
            "format": FORMAT,
            "iteration": self.loop.step,
            "loop": self.loop.state_dict(),
            "config": {
                "run": self.config.model_dump(mode="json"),
                "decomposer": decomposer.to_json(),
                "verifier": verifier.to_json(),
            },
        }
        files.write_atomically(folder / STATE, json.dumps(content, indent=1))
        self._checkpoint = folder

    def restore(self, folder: Path) -> None:
        """Restore what :meth:`save` wrote; CheckpointError if it is not whole."""
        folder = folder.absolute()
        self.wait_for(self._load(folder, read_state(folder)))
        self._checkpoint = folder

    async def _load(self, folder: Path, content: Mapping[str, Any]) -> None:
        await self.loop.close()
        # Before a step is taken again: its pictures are to have the verdicts that it recorded.
        RunFolder(self.config.folder).keep_verdicts(int(content["iteration"]))
        await self.mesh.learner.load(str(folder / LEARNER))
        self.loop.load_state_dict(content["loop"])


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


def _refuse_torn(learner: Path, step: int) -> None:
    """Raise CheckpointError where a step was cut short between the learner's and the loop's part of
    it: what was learnt is in the weights and nowhere else.
    """
    saved = json.loads((learner / "learner.json").read_text(encoding="utf-8"))["step"]
    if saved != step:
        raise CheckpointError(
            f"learner and loop must stand at the same step in a checkpoint, got {saved} and {step}"
        )


def read_state(folder: Path) -> dict[str, Any]:
    """``mesh.json`` of a checkpoint folder; CheckpointError where there is none of this format."""
    return files.read_state(folder / STATE, format_number=FORMAT, owner="a run's checkpoint")
