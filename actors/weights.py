"""Versioned weights in the object store: the learner owns the bytes, a registry knows where."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.parts import Handle, actor_name, actor_options, answer
from alphagrpo.config import RunConfig
from alphagrpo.errors import RegistryLost, WeightsError
from alphagrpo.ports import WeightStore
from alphagrpo.types import WeightsManifest

T = TypeVar("T")


class WeightRegistry:
    """Which versions there are and where their chunks lie. Holds references, never bytes.

    Runners pull: a push to a busy actor can be dropped unseen, and a sample of unknown version
    would be trained on.
    """

    def __init__(self, num_kept: int) -> None:
        self._num_kept = num_kept
        self._versions: dict[int, tuple[WeightsManifest, list[Any]]] = {}

    def put(self, manifest: WeightsManifest, references: list[Any]) -> None:
        """Make a version the newest. Later ones, of a learner that has since been restored, go."""
        older = sorted(v for v in self._versions if v < manifest.version)[1 - self._num_kept :]
        self._versions = {v: self._versions[v] for v in older}
        self._versions[manifest.version] = (manifest, references)

    def newest(self) -> WeightsManifest | None:
        """The newest manifest, or None before the first publication."""
        return self._versions[max(self._versions)][0] if self._versions else None

    def get(self, version: int) -> tuple[WeightsManifest, list[Any]]:
        """Manifest and chunk references; WeightsError for a version that is gone or never was."""
        if version not in self._versions:
            raise WeightsError(
                f"weights {version} are not published, there are {sorted(self._versions)}; "
                "ask for the newest"
            )
        return self._versions[version]


def start_registry(config: RunConfig) -> Handle:
    """The run's registry, ``alphagrpo:<run>:weights``.

    It goes where the learner may be, whose bytes it names. Without a selector it starts beside
    the driver, where it adds no node whose loss would end the run: the driver owns it, so that it
    ends with the driver's node wherever it is. Ray starts it again after a loss, empty: whoever
    misses a version there says so, and the run has the learner publish its weights again.
    """
    selector = config.placement.registry
    options = actor_options(config, "weights", cpus=0, gpus=0, selector=selector)
    if not selector:
        here = ray.get_runtime_context().get_node_id()
        # Ray (2.60) puts an actor that asks for nothing anywhere, but for a hard affinity.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    actor: Any = ray.remote(WeightRegistry)
    return actor.options(**options, max_restarts=-1, max_task_retries=-1).remote(
        config.rollout.kept_versions
    )


def find_registry(config: RunConfig) -> Handle:
    """The run's registry, by name.

    Actors find it themselves: a handle among the arguments of a constructor lies in the object
    store, and an actor whose arguments are lost there cannot be restarted.
    """
    return ray.get_actor(actor_name(config.name, "weights"))


def connect_weights(config: RunConfig) -> WeightStore:
    """The weight store of a run, for its learner and its runners; its registry must be there."""
    return RayWeightStore(find_registry(config), config.deadlines.ping_s)


async def registry_answer(call: Awaitable[T], limit_s: float) -> T:
    """What the registry answers, which has nothing to compute.

    Raises:
        RegistryLost: where it does not within ``limit_s`` seconds, dead or silent.
        WeightsError: what the registry says itself.
    """
    try:
        return await asyncio.wait_for(answer(call), limit_s)
    except TimeoutError:
        found = f"it did not within deadlines.ping_s ({limit_s:g} s)"
    except RayActorError as error:
        found = f"its process died ({error})"
    raise RegistryLost(
        f"the weight registry must say where weights are, {found}; it is started again, and the "
        "weights are published again"
    )


class RayWeightStore:
    """:class:`alphagrpo.ports.WeightStore` over a registry, for use inside an async actor."""

    def __init__(self, registry: Handle, limit_s: float) -> None:
        """``limit_s``: seconds the registry has for an answer."""
        self._registry, self._limit_s = registry, limit_s

    async def publish(self, chunks: Sequence[Any], manifest: WeightsManifest) -> None:
        """Put the chunks into the object store, owned by this process.

        They live while it does and for as long as the registry borrows their references.
        """
        references = [ray.put(chunk) for chunk in chunks]
        await registry_answer(self._registry.put.remote(manifest, references), self._limit_s)

    async def newest(self) -> WeightsManifest | None:
        """The newest manifest, or None before the first publication."""
        return await registry_answer(self._registry.newest.remote(), self._limit_s)

    async def fetch(self, version: int) -> tuple[WeightsManifest, Sequence[Any]]:
        """Manifest and read-only chunks; one copy per node, shared by its runners.

        Raises:
            WeightsError: if the version is gone.
        """
        manifest, references = await registry_answer(
            self._registry.get.remote(version), self._limit_s
        )
        try:
            return manifest, await asyncio.gather(*references)
        except ray.exceptions.ObjectLostError as error:
            raise WeightsError(
                f"weights {version} were lost with their owner ({type(error).__name__}); "
                "the learner publishes them again when it is restored"
            ) from error
