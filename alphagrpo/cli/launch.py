"""What a run will do, decided and checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alphagrpo.cli import prechecks
from alphagrpo.cli.placement import Placement, placement_of, read_serve_config
from alphagrpo.cli.ray_session import check_ports, wanted_address
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.policy.memory import memory_estimate, model_size
from alphagrpo.record.folder import RunFolder

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig


@dataclass(frozen=True, slots=True)
class Launch:
    """What the prechecks found out."""

    address: str | None
    """The cluster to join; None to start a private one."""
    placement: Placement
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
    shape = FAMILY.check(config.model.path)
    check_picture_size(config.task, shape)
    if config.services.serve_config is not None:
        read_serve_config(config.services.serve_config)
    placement = placement_of(config)
    address = wanted_address()
    if address is None:
        _, size = model_size(config)
        sizes = memory_estimate(config, shape, size)
        holders = sizes.learner + sizes.runner * config.rollout.num_runners
        prechecks.check_memory(config, placement, holders)
        check_ports(placement.http_port)
    return Launch(address, placement, resume)


def check_reward(config: RunConfig) -> None:
    """The reward program can be made here; ConfigError for an import path that leads nowhere."""
    from alphagrpo.rewards.programs import configured_program

    configured_program(config.reward)
