"""``alphagrpo train CONFIG --dry-run``: all checks and arithmetic, nothing started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.placement import Placement, placement_of
from alphagrpo.cli.prediction import (
    change_rows,
    judging_note,
    mesh_notes,
    on_gpu,
    predict,
    prediction_figures,
    time_rows,
)
from alphagrpo.cli.sizing import (
    CARD_SIZES,
    Row,
    fit_notes,
    fit_rows,
    memory_rows,
    model_rows,
)
from alphagrpo.config import RunConfig
from alphagrpo.data import check_source
from alphagrpo.data.prompts import WORLD_PREFIX
from alphagrpo.errors import CheckpointError
from alphagrpo.policy.advice import SHARED_CARDS
from alphagrpo.policy.cards import H200, Card, card_of
from alphagrpo.policy.family import FAMILY, PolicyShape, check_picture_size
from alphagrpo.policy.fit import cases
from alphagrpo.policy.memory import ModelSize, memory_estimate, model_size
from alphagrpo.policy.recipe import Recipe
from alphagrpo.shipped import locate
from alphagrpo.tasks import refinement_of, trained_tasks
from alphagrpo.types import TaskName

if TYPE_CHECKING:
    from alphagrpo.config.services import ServiceConfig
    from services.serve_config import ServeFile

TASK_NAMES: dict[TaskName, str] = {"rt2i": "text to image", "srr": "refinement"}


def dry_run(config: RunConfig, card_name: str = H200.name) -> dict[str, Any]:
    """Placement, memory and time of a run as JSON values, with notes on what could not be checked.

    ``card_name`` is the GPU that memory is compared with and time is predicted for. Raises what a
    real run would raise for the same config and files; absent files of a run that is meant for
    another machine become notes.
    """
    card = card_of(card_name)
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
    memory = memory_estimate(config, shape, size)
    cards = _CardFigures.of(config, shape, size, placement, card)
    notes += serve_notes + mesh_notes(config) + cards.notes
    return {
        "run": config.name,
        "folder": str(config.folder),
        "model": asdict(size) | {"total": size.total, "path": str(config.model.path)},
        "placement": {
            "roles": [asdict(role) for role in placement.roles],
            "cpus": placement.cpus,
            "gpus": placement.gpus,
        },
        "memory": asdict(memory)
        | {"learner": memory.learner, "runner": memory.runner, "shared": memory.shared},
        "step": _step_figures(config),
        **cards.figures,
        "notes": notes,
        "tables": {
            "one step": _step_rows(config),
            "placement": _placement_rows(placement),
            "model": model_rows(config, size),
            "memory": memory_rows(config, size, memory),
            **cards.tables,
        },
    }


@dataclass(frozen=True, slots=True)
class _CardFigures:
    """What is said of a run for one kind of card; nothing but a note where it has none."""

    figures: dict[str, Any]
    tables: dict[str, list[Row]]
    notes: list[str]

    @classmethod
    def of(
        cls,
        config: RunConfig,
        shape: PolicyShape,
        size: ModelSize,
        placement: Placement,
        card: Card,
    ) -> _CardFigures:
        if not on_gpu(config):
            note = (
                f"a step's time is not predicted for model.device {config.model.device} without "
                "GPUs: the table of measured cards has no CPU"
            )
            return cls({}, {}, [note])
        processes = cases(config, shape, size, CARD_SIZES)
        prediction = predict(config, shape, size, placement, card)
        best = prediction.best
        # Of other meshes the shared one stands last.
        advised = processes[-1] if best is not None and best.name == SHARED_CARDS else None
        return cls(
            {
                "cases": [asdict(case) for case in processes],
                "time": prediction_figures(prediction),
            },
            {
                "what fits where": fit_rows(processes),
                "time of a step": time_rows(prediction),
                "what would shorten it": change_rows(prediction),
            },
            [*fit_notes(config, processes, card, advised=advised), judging_note(prediction)],
        )


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
