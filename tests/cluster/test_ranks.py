"""Several ranks on one machine: they learn what one learns, and a lost one costs no group."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from actors.run import MeshRun
from alphagrpo.config import RunConfig
from alphagrpo.loop import StepReport
from alphagrpo.policy.checkpoint import open_checkpoint, read_state
from tests.tiny_run import DECOMPOSER, VERIFIER, config_for, write_model, write_prompts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    model = write_model(tmp_path_factory.mktemp("policy"))
    return model, write_prompts(tmp_path_factory.mktemp("data"))


class Ended:
    """What a run of two steps left."""

    def __init__(self, reports: Sequence[StepReport], checksum: str) -> None:
        self.reports, self.checksum = reports, checksum
        self.rewards = [[s.reward for g in r.groups for s in g.samples] for r in reports]


def started(config: RunConfig) -> MeshRun:
    return MeshRun(config, decomposer=DECOMPOSER, verifier=VERIFIER)


def run_of(config: RunConfig, folder: Path) -> Ended:
    """A whole run, with a checkpoint after its first step."""
    with started(config) as run:
        first = run.step()
        run.save(folder)
        return Ended([first, run.step()], run.manifest().checksum)


def gradients(folder: Path) -> dict[str, Any]:
    """Of the run's first step, after which it was saved: Adam's first moment is a tenth of them."""
    tensors = load_file(folder / "learner" / "learner.safetensors")
    return {name: t for name, t in tensors.items() if name.startswith("exp_avg/")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(mesh_cluster: str, files: Any, checkpoint: Path) -> Ended:
    config = config_for("two", *files, learner={"ranks": 2, "check_every": 1})
    return run_of(config, checkpoint)


def test_two_ranks_learn_what_one_learns(
    two: Ended, checkpoint: Path, files: Any, tmp_path: Path
) -> None:
    one = run_of(config_for("one", *files), tmp_path)
    assert one.rewards[0] == two.rewards[0]
    expected, found = gradients(tmp_path), gradients(checkpoint)
    assert expected.keys() == found.keys()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-6 * largest)
    metrics = two.reports[0].metrics
    assert metrics["learner/rank_groups_max"] == 2.0
    assert metrics["parity/image_max_abs_log_ratio"] == 0.0


@pytest.fixture
def killer() -> Iterator[Any]:
    """Sends a signal to a process a little later; whom it stopped is killed in the end."""
    pids: list[int] = []

    def send(pid: int, number: signal.Signals, delay_s: float) -> None:
        pids.append(pid)
        threading.Timer(delay_s, os.kill, (pid, number)).start()

    yield send
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_rank_costs_one_start_of_the_ranks_and_no_group(
    two: Ended, files: Any, tmp_path: Path, killer: Any, number: signal.Signals
) -> None:
    """The second run of two ranks ends with the bits of the first, whatever happened to it."""
    deadline = {"ranks": 2, "deadline_s": 10.0}
    changes = {"learner": deadline, "deadlines": {"ping_s": 8.0}}
    with started(config_for(f"lost-{number.name}", *files, **changes)) as run:
        reports = [run.step()]
        run.save(tmp_path / "saved")
        before = [s["pid"] for s in run.wait_for(run.mesh.learner.status())]
        killer(before[1], number, 0.05)
        reports.append(run.step())
        after = [s["pid"] for s in run.wait_for(run.mesh.learner.status())]
        assert not set(before) & set(after)
        ended = Ended(reports, run.manifest().checksum)
    assert ended.rewards == two.rewards
    assert ended.checksum == two.checksum


SHARED = {"placement": "runners", "deadline_s": 30.0}


def test_runners_that_learn_what_they_drew_learn_what_ranks_of_their_own_do(
    two: Ended, checkpoint: Path, files: Any, tmp_path: Path, killer: Any
) -> None:
    """The same shares of the same groups: the same bits. One of the two is killed on the way."""
    config = config_for("shared", *files, learner=SHARED, num_runners=2)
    with started(config) as run:
        assert [status["name"] for status in run.wait_for(run.mesh.learner.status())] == [
            "rollout-0",
            "rollout-1",
        ]
        reports = [run.step()]
        run.save(tmp_path / "saved")
        manifest = run.manifest()
        for status in run.wait_for(run.mesh.pool.status()):
            assert status["version"] == manifest.version == 1
        victim = run.wait_for(run.mesh.pool.status())[1]["pid"]
        killer(victim, signal.SIGKILL, 0.05)
        reports.append(run.step())
        ended = Ended(reports, run.manifest().checksum)
        assert victim not in {s["pid"] for s in run.wait_for(run.mesh.pool.status())}
    assert ended.rewards == two.rewards
    assert ended.checksum == two.checksum
    for name, gradient in gradients(checkpoint).items():
        np.testing.assert_array_equal(gradients(tmp_path / "saved")[name], gradient)
    assert reports[0].metrics["time/bound_s"] == reports[0].metrics["stage/shared_s"]


def test_ranks_with_shares_learn_what_one_learns_and_any_number_goes_on(
    files: Any, tmp_path: Path, mesh_cluster: str
) -> None:
    """Two ranks with shares of the experts; their checkpoint on one rank and on three."""
    one = run_of(config_for("whole", *files), tmp_path / "whole")
    shares = {"ranks": 2, "sharded": True}
    two = run_of(config_for("shares", *files, learner=shares), tmp_path / "shares")
    assert two.rewards[0] == one.rewards[0]
    assert two.reports[0].metrics["parity/image_max_abs_log_ratio"] == 0.0
    expected = gradients(tmp_path / "whole")
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    folder = tmp_path / "shares" / "learner"
    with open_checkpoint(folder, read_state(folder)) as saved:
        for name, gradient in expected.items():
            found = saved.read(name, None).numpy()
            np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-5 * largest)
    for ranks in (1, 3):
        learner = {"ranks": ranks, "sharded": True}
        with started(config_for(f"on-{ranks}", *files, learner=learner)) as run:
            run.restore(tmp_path / "shares")
            report = run.step()
            assert [s.reward for g in report.groups for s in g.samples] == two.rewards[1]
            assert report.step == 2
