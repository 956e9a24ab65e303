"""What a run will do, decided and checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alphagrpo.cli import prechecks
from alphagrpo.cli.placement import Placement, placement_of
from alphagrpo.cli.ray_session import address_to_join, check_ports
from alphagrpo.cli.ray_start import set_environment
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.policy.memory import memory_estimate, model_size
from alphagrpo.record.folder import RunFolder

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from services.serve_config import ServeFile


@dataclass(frozen=True, slots=True)
class Launch:
    """What the prechecks found out."""

    address: str | None
    """The cluster to join; None to start a private one."""
    placement: Placement
    serve_file: ServeFile | None
    """Read and checked; None where the services must be running."""
    resume: bool


def precheck(config: RunConfig, *, resume: bool) -> Launch:
    """Everything that can be wrong is found here, before anything is started.

    Raises ConfigError and EnvironmentProblem.
    """
    folder = RunFolder(config.folder)
    if resume:
        RunFolder.open(config.folder)
    else:
        folder.check_unused()
    prechecks.check_prompts(config)
    check_reward(config)
    shape = FAMILY.check(config.model.folder)
    check_picture_size(config.task, shape)
    address = address_to_join()
    serve_file = _serve_file(config.services.serve_config, private=address is None)
    placement = placement_of(config, serve_file)
    if address is None:
        _, size = model_size(config)
        sizes = memory_estimate(config, shape, size)
        holders = sizes.learner + sizes.runner * config.rollout.num_runners
        prechecks.check_memory(config, placement, holders)
        if serve_file is not None:
            check_ports(serve_file.http_port)
    return Launch(address, placement, serve_file, resume)


def _serve_file(path: Path | None, *, private: bool) -> ServeFile | None:
    if path is None:
        return None
    set_environment(private=private)  # reading it imports ray
    from services.serve_config import load_serve_file

    return load_serve_file(path)


def check_reward(config: RunConfig) -> None:
    """The reward program can be made here; ConfigError for an import path that leads nowhere."""
    from alphagrpo.rewards.programs import configured_program

    configured_program(config.reward)
