"""What is done with a prompt: text-to-image, or the refinement of one of its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphagrpo import seeds
from alphagrpo.errors import ConfigError

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.config.refinement import RefinementConfig
    from alphagrpo.types import TaskName


def refinement_of(config: RunConfig) -> RefinementConfig:
    """The section on refining; ConfigError where the config has none."""
    if config.refinement is None:
        raise ConfigError(
            f"refining needs a section refinement, the config of {config.name} has none; take one "
            "that has (deploy/configs/shapes-srr.yaml) or add it"
        )
    return config.refinement


def task_of(config: RunConfig, prompt_id: str, visit: int) -> TaskName:
    """What is done with a prompt at a visit: a function of the config alone."""
    if config.task.kind != "mixed":
        return config.task.kind
    share = seeds.derive("task", config.seed, prompt_id, visit) / 2**seeds.SEED_BITS
    return "srr" if share < refinement_of(config).share else "rt2i"


def trained_tasks(config: RunConfig) -> tuple[TaskName, ...]:
    """The tasks whose trajectories a run trains on."""
    kind, refinement = config.task.kind, config.refinement
    if kind == "rt2i":
        return ("rt2i",)
    trains_drafts = refinement is not None and refinement.drafts.trained
    return ("rt2i", "srr") if kind == "mixed" or trains_drafts else ("srr",)
