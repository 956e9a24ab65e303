"""What a run will do, decided and checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alphagrpo.cli import prechecks
from alphagrpo.cli.placement import Placement, placement_of
from alphagrpo.cli.ray_session import address_to_join, check_ports
from alphagrpo.cli.ray_start import set_environment
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.policy.memory import memory_estimate, model_size, object_store_bytes
from alphagrpo.record.folder import RunFolder

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.record.checkpoints import ResumePoint
    from services.serve_config import ServeFile


@dataclass(frozen=True, slots=True)
class Launch:
    """What the prechecks found out."""

    address: str | None
    """The cluster to join; None to start a private one."""
    placement: Placement
    serve_file: ServeFile | None
    """Of the applications that the run uses, checked; None where they must be running."""
    store_bytes: int
    """Object store of a private cluster."""
    resume: ResumePoint | None
    """Where a run goes on that was interrupted; None of a new one."""


def precheck(config: RunConfig, *, resume: bool, step: int | None = None) -> Launch:
    """Everything that can be wrong is found here, before anything is started.

    A run that is resumed goes on from its newest whole checkpoint, or from that of ``step``.

    Raises ConfigError and EnvironmentProblem.
    """
    folder = RunFolder(config.folder)
    if resume:
        RunFolder.open(config.folder)
    else:
        folder.check_unused()
    prechecks.check_written_paths(config)
    prechecks.check_prompts(config)
    check_reward(config)
    check_canary(config)
    shape = FAMILY.check(config.model.folder)
    check_picture_size(config.task, shape)
    address = address_to_join()
    serve_file = _serve_file(config, private=address is None)
    placement = placement_of(config, serve_file)
    _, size = model_size(config)
    sizes = memory_estimate(config, shape, size)
    store_bytes = max(prechecks.STORE_BYTES, object_store_bytes(config, sizes))
    if address is None:
        prechecks.check_memory(config, placement, sizes, store_bytes)
        if serve_file is not None:
            check_ports(serve_file.http_port)
    # Last: all bytes of a checkpoint are read for it.
    point = folder.resume_point(step) if resume else None
    return Launch(address, placement, serve_file, store_bytes, point)


def _serve_file(config: RunConfig, *, private: bool) -> ServeFile | None:
    """What the run asks, of its Serve file: a gateway beside it is nothing that a run waits for."""
    services, second = config.services, config.watch.heldout_app
    if services.serve_config is None:
        return None
    set_environment(private=private)  # reading it imports ray
    from services.serve_config import load_serve_file

    apps = (*services.applications, *([second] if second else []))
    return load_serve_file(services.serve_config, apps)


def check_canary(config: RunConfig) -> None:
    """The canary of the judge watch reads well; ConfigError with the line that does not."""
    from alphagrpo.eval.canary import load_canary

    if config.watch.canary is not None:
        load_canary(config.watch.canary)


def check_reward(config: RunConfig) -> None:
    """The reward program can be made here; ConfigError for an import path that leads nowhere."""
    from alphagrpo.rewards.programs import configured_program

    configured_program(config.reward)
