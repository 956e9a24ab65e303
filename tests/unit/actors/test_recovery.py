"""What a run does about a loss: whom it asks, what it restores, and how often it begins again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actors import recovery as recovery_module
from actors.recovery import Recovery
from alphagrpo.errors import ConfigError, LearnerLost, RegistryLost, WeightsError
from tests.fakes import make_config

SILENT = RegistryLost("it did not answer")


class Mesh:
    """Notes what is asked of it."""

    def __init__(self, *, has: bool = True, learner_lost: bool = False) -> None:
        self.has, self.learner_lost = has, learner_lost
        self.asked: list[str] = []
        self.learner = SimpleNamespace(status=self.status)

    async def status(self) -> None:
        if self.learner_lost:
            raise LearnerLost("a process of it died")

    async def has_weights(self, version: int) -> bool:
        self.asked.append(f"registry for {version}")
        return self.has

    async def restart_learner(self) -> None:
        self.asked.append("restart")
        self.learner_lost = False


class Loop:
    """With a manifest or none."""

    def __init__(self, manifest: Any = None) -> None:
        self.manifest = manifest

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.manifest = None

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_module, "PAUSES_S", (0.0, 0.0, 0.0))


def failing(*errors: Exception) -> Any:
    left = list(errors)

    async def work() -> str:
        await asyncio.sleep(0)
        if left:
            raise left.pop(0)
        return "done"

    return work


@pytest.mark.parametrize("manifest", [None, SimpleNamespace(version=7)])
async def test_a_silent_registry_is_looked_after_also_before_a_publication(manifest: Any) -> None:
    mesh, loop = Mesh(has=False), Loop(manifest)
    assert await Recovery(make_config(), mesh, loop).surviving(failing(SILENT)) == "done"
    assert mesh.asked == [f"registry for {manifest.version if manifest else 0}"]
    assert loop.manifest is None, "weights are published again"


async def test_weights_that_are_refused_are_published_again_and_no_process_is_touched() -> None:
    mesh, loop = Mesh(), Loop(SimpleNamespace(version=2))
    work = failing(WeightsError("another checksum"))
    assert await Recovery(make_config(), mesh, loop).surviving(work) == "done"
    assert (mesh.asked, loop.manifest) == (["registry for 2"], None)


async def test_a_lost_learner_that_a_runner_sees_first_is_restarted_and_not_the_registry() -> None:
    mesh, loop = Mesh(learner_lost=True), Loop(SimpleNamespace(version=2))
    work = failing(WeightsError("lost with their owner"))
    assert await Recovery(make_config(), mesh, loop).surviving(work) == "done"
    assert mesh.asked == ["restart"]


async def test_work_that_meets_one_loss_together_restores_it_once() -> None:
    mesh, loop = Mesh(), Loop()
    recovery = Recovery(make_config(), mesh, loop)
    lost = LearnerLost("a process of it died")
    works = [recovery.surviving(failing(lost)) for _ in range(3)]
    assert await asyncio.gather(*works) == ["done"] * 3
    assert mesh.asked == ["restart"]


async def test_a_loss_that_comes_again_and_again_ends_the_run_and_others_do_so_at_once() -> None:
    mesh = Mesh()
    recovery = Recovery(make_config(), mesh, Loop())
    with pytest.raises(LearnerLost):
        await recovery.surviving(failing(*[LearnerLost("gone")] * 4))
    assert mesh.asked == ["restart"] * 3
    with pytest.raises(ConfigError):
        await recovery.surviving(failing(ConfigError("no")))
    assert mesh.asked == ["restart"] * 3
