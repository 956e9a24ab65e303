"""``alphagrpo train CONFIG --dry-run``: all checks and arithmetic, nothing started."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.placement import Placement, placement_of
from alphagrpo.config import RunConfig
from alphagrpo.data import check_source
from alphagrpo.data.prompts import WORLD_PREFIX
from alphagrpo.errors import CheckpointError
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.policy.memory import (
    MemoryEstimate,
    ModelSize,
    memory_estimate,
    model_size,
    object_store_bytes,
)
from alphagrpo.policy.recipe import Recipe
from alphagrpo.shipped import locate
from alphagrpo.tasks import refinement_of, trained_tasks
from alphagrpo.types import TaskName

if TYPE_CHECKING:
    from alphagrpo.config.services import ServiceConfig
    from services.serve_config import ServeFile

GB = 1e9
LARGEST_GPU_BYTES = 141e9
"""Memory of an H200."""
Row = tuple[str, str, str]
TASK_NAMES: dict[TaskName, str] = {"rt2i": "text to image", "srr": "refinement"}


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Placement and memory of a run as JSON values, with notes on what could not be checked.

    Raises what a real run would raise for the same config and files; absent files of a run that
    is meant for another machine become notes.
    """
    shape, size = model_size(config)
    notes = []
    if size.assumed:
        notes.append(
            f"{config.model.path} does not exist here: released {FAMILY.released_name} sizes "
            "assumed"
        )
    else:
        FAMILY.check(config.model.folder)
    check_picture_size(config.task, shape)
    notes += _prompt_notes(config)
    serve_file, serve_notes = _serve_file(config.services)
    placement = placement_of(config, serve_file)
    notes += serve_notes
    memory = memory_estimate(config, shape, size)
    notes += _memory_notes(config, memory)
    return {
        "run": config.name,
        "folder": str(config.folder),
        "model": asdict(size) | {"total": size.total, "path": str(config.model.path)},
        "placement": {
            "roles": [asdict(role) for role in placement.roles],
            "cpus": placement.cpus,
            "gpus": placement.gpus,
        },
        "memory": asdict(memory) | {"learner": memory.learner, "runner": memory.runner},
        "step": _step_figures(config),
        "notes": notes,
        "tables": _tables(config, placement, size, memory),
    }


def _prompt_notes(config: RunConfig) -> list[str]:
    notes = []
    for source in (config.data.train, config.data.heldout):
        if not source.startswith(WORLD_PREFIX) and not Path(source).exists():
            notes.append(f"{source} does not exist here: prompts not checked")
        else:
            check_source(source)
    return notes


def _serve_file(services: ServiceConfig) -> tuple[ServeFile | None, list[str]]:
    """The run's Serve file, checked as before a real run, and notes on what is not here."""
    path = services.serve_config
    if path is None:
        return None, []
    if not locate(path).is_file():
        return None, [f"{path} does not exist here: Serve replicas unknown"]
    from services.serve_config import read_serve_file

    serve_file, notes = read_serve_file(path).only(services.applications), []
    for name in serve_file.applications:
        try:
            serve_file.only([name]).check_applications()
        except CheckpointError as error:
            notes.append(f"Serve application {name}: {error}")
    return serve_file, notes


def _memory_notes(config: RunConfig, memory: MemoryEstimate) -> list[str]:
    if config.learner.gpus <= 0 or memory.learner <= LARGEST_GPU_BYTES * config.learner.gpus:
        return []
    return [
        f"the learner's estimate of {memory.learner / GB:.0f} GB is above "
        f"{config.learner.gpus:g} x "
        f"{LARGEST_GPU_BYTES / GB:.0f} GB; lower rollout.group_size or give learner.gpus more"
    ]


def _step_figures(config: RunConfig) -> dict[str, Any]:
    rollout = config.rollout
    figures: dict[str, Any] = {
        "trajectories": rollout.group_size * rollout.prompts_per_step,
        "parity_limit_image": config.algorithm.image.clip * config.training.parity_limit_share,
        "parity_limit_text": config.algorithm.text.clip_low * config.training.parity_limit_share,
        "tasks": {task: _task_figures(config, task) for task in trained_tasks(config)},
    }
    if "srr" in figures["tasks"]:
        drafts = refinement_of(config).drafts
        figures["drafts_per_prompt"] = rollout.group_size if drafts.trained else drafts.num
    return figures


def _task_figures(config: RunConfig, task: TaskName) -> dict[str, Any]:
    recipe = Recipe.of(config, task)
    window = recipe.flow.window
    starts = range(window.allowed[0], window.allowed[1] - window.length + 1)
    return {
        "rounds": recipe.rounds,
        "denoising_steps": recipe.flow.num_points - 1,
        "trained_steps": window.length,
        "window_starts": list(starts),
        "text_weight": recipe.text_weight,
    }


def _tables(
    config: RunConfig, placement: Placement, size: ModelSize, memory: MemoryEstimate
) -> dict[str, list[Row]]:
    return {
        "one step": _step_rows(config),
        "placement": _placement_rows(placement),
        "model": _model_rows(config, size),
        "memory": _memory_rows(config, size, memory),
    }


def _step_rows(config: RunConfig) -> list[Row]:
    step = _step_figures(config)
    group, prompts = config.rollout.group_size, config.rollout.prompts_per_step
    rows = [("trajectories", f"{step['trajectories']:,}", f"{prompts} prompts x {group} samples")]
    if "drafts_per_prompt" in step:
        refinement = refinement_of(config)
        note = f"per prompt; the {refinement.drafts.pick} one is refined"
        rows.append(("drafts", str(step["drafts_per_prompt"]), note))
    for task, figures in step["tasks"].items():
        name = TASK_NAMES[task]
        rounds = figures["rounds"]
        note = "per picture" + (f", {rounds} rounds" if rounds > 1 else "")
        rows += [
            (f"denoising steps, {name}", str(figures["denoising_steps"]), note),
            (
                f"trained steps, {name}",
                str(figures["trained_steps"]),
                f"window starts at one of {figures['window_starts']}",
            ),
        ]
    rows.append(
        (
            "|log ratio| allowed",
            f"{step['parity_limit_image']:.1e} / {step['parity_limit_text']:.1e}",
            "image / text at step 0; a run above it is refused",
        )
    )
    return rows


def _placement_rows(placement: Placement) -> list[Row]:
    rows = []
    for role in placement.roles:
        notes = [f"on {role.where}"] if role.selector else []
        if role.largest > role.count:
            notes.append(f"scales to {role.largest}")
        each = f"{role.cpus:g} CPU" + (f", {role.gpus:g} GPU" if role.gpus else "")
        rows.append((role.name, f"{role.count} x {each}", "; ".join(notes)))
    total = f"{placement.cpus:g} CPU, {placement.gpus:g} GPU"
    rows.append(("together", total, "logical; controller and proxy reserve none"))
    return rows


def _model_rows(config: RunConfig, size: ModelSize) -> list[Row]:
    lora = config.model.trainable == "lora"
    rows = [
        ("understanding expert", _count(size.understanding), ""),
        ("generation expert", _count(size.generation), ""),
        ("embeddings and head", _count(size.embeddings), ""),
        ("vision transformer", _count(size.vision), "with connector"),
        ("autoencoder", _count(size.autoencoder), ""),
        ("time, latent, velocity", _count(size.other), "with position tables"),
        ("all weights", _count(size.total), ""),
    ]
    if lora:
        rank = config.model.lora.rank
        rows.append(("LoRA", _count(size.lora), f"rank {rank}, both experts; all else frozen"))
    else:
        rows.append(("trainable", _count(size.understanding + size.generation), "both experts"))
    return rows


def _memory_rows(config: RunConfig, size: ModelSize, memory: MemoryEstimate) -> list[Row]:
    group = config.rollout.group_size
    dtype = config.model.dtype
    return [
        ("weights", _size(memory.weights), f"{dtype}, in every runner and the learner"),
        ("float32 masters", _size(memory.masters), "learner"),
        ("gradients", _size(memory.gradients), "learner"),
        ("AdamW moments", _size(memory.optimizer), "learner"),
        ("keys and values", f"{size.kv_bytes_per_token / 1024:g} KiB per token", dtype),
        (
            "one group's context",
            _size(memory.context_per_group),
            f"{group} samples, packed branches",
        ),
        (
            "activations",
            _size(memory.activations),
            f"estimate: {group} samples, one window step, all branches",
        ),
        ("learner", _size(memory.learner), "one forward is held at a time"),
        ("runner", _size(memory.runner), "without working space"),
        (
            "trajectories of a step",
            _size(memory.trajectories_per_step),
            f"object store; {memory.tokens_per_image:,} tokens a picture",
        ),
        ("object store", _size(object_store_bytes(config, memory)), "with the versions kept"),
    ]


def _count(number: int) -> str:
    if number >= 1e9:
        return f"{number / 1e9:.2f} B"
    return f"{number / 1e6:.1f} M"


def _size(number: int) -> str:
    return f"{number / GB:.2f} GB" if number >= GB / 10 else f"{number / 1e6:.1f} MB"
