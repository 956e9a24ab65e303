"""How long a step of a run will take, and what would make it quicker: the dry run's part of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from alphagrpo.cli.placement import Placement
from alphagrpo.config import RunConfig
from alphagrpo.lag import announced_lag
from alphagrpo.policy.advice import WORTH_IT, Change, changes
from alphagrpo.policy.cards import Card
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.forecast import Forecast, Mesh, StepModel
from alphagrpo.policy.memory import ModelSize
from alphagrpo.policy.timing import QUESTIONS_PER_S, questions_per_picture

STAGES = {
    "draw": "drawing",
    "verify": "judging",
    "learn": "learning",
    "shared": "drawing and learning",
}
Row = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the arithmetic says of a run."""

    model: StepModel
    mesh: Mesh
    forecast: Forecast
    unstreamed: Forecast
    """The same, each stage after the one before it."""
    capped: Forecast
    """The same, every thought as long as it may be."""
    cap: int
    changes: list[Change]

    @property
    def best(self) -> Change | None:
        """The change that shortens a step most; None where none is worth it."""
        best = self.changes[0] if self.changes else None
        return best if best is not None and best.helps(self.forecast) else None


def on_gpu(config: RunConfig) -> bool:
    """Whether the policy runs on GPUs, as far as the config says."""
    device = config.model.device
    return device == "cuda" or (device == "auto" and config.rollout.gpus_per_runner > 0)


def predict(
    config: RunConfig, shape: PolicyShape, size: ModelSize, placement: Placement, card: Card
) -> Prediction:
    """The step of a run whose policy is on cards of one kind."""
    mesh, cap = Mesh.of(config, judge_gpus(config, placement)), config.task.max_think_tokens
    model = StepModel(config, shape, size, card)
    capped = StepModel(config, shape, size, card, thought_tokens=cap)
    return Prediction(
        model=model,
        mesh=mesh,
        forecast=model.forecast(mesh),
        unstreamed=model.forecast(replace(mesh, streamed=False)),
        capped=capped.forecast(mesh),
        cap=cap,
        changes=changes(model, mesh),
    )


def judge_gpus(config: RunConfig, placement: Placement) -> float | None:
    """GPUs of the verifier's replicas at the start; None where none are known."""
    prefix = f"serve {config.services.verifier_app}/"
    gpus = sum(role.total_gpus for role in placement.replicas if role.name.startswith(prefix))
    return gpus or None


def prediction_figures(prediction: Prediction) -> dict[str, Any]:
    """As JSON values; seconds, TFLOP of one group."""
    model, forecast = prediction.model, prediction.forecast
    config, card = model.config, model.card
    work = model.work(config.rollout.group_size)
    return {
        "card": {"name": card.name, "source": card.source},
        "thought_tokens": model.thought_tokens,
        "questions_per_picture": questions_per_picture(config),
        "questions_per_s": QUESTIONS_PER_S,
        "group": {
            "drawing_tflop": work.drawing,
            "learning_tflop": work.learning,
            "draw_s": work.draw_s(card),
            "thinking_s": work.thinking_s(card),
            "learn_s": work.learn_s(card),
        },
        "mesh": asdict(prediction.mesh),
        "stages": {
            name: asdict(stage) | {"even_s": stage.even_s, "busy": forecast.busy(name)}
            for name, stage in forecast.stages.items()
        },
        "bound_s": forecast.bound_s,
        "step_s": forecast.step_s,
        "efficiency": forecast.efficiency,
        "unstreamed_step_s": prediction.unstreamed.step_s,
        "capped_step_s": prediction.capped.step_s,
        "advice": advice(prediction),
        "changes": [
            {
                "name": change.name,
                "settings": change.settings,
                "extra_cards": change.extra_cards,
                "step_s": change.forecast.step_s,
            }
            for change in prediction.changes
        ],
    }


def time_rows(prediction: Prediction) -> list[Row]:
    """The table on the time of a step."""
    model, forecast = prediction.model, prediction.forecast
    config, card, step_s = model.config, model.card, forecast.step_s
    work = model.work(config.rollout.group_size)
    thinking = f", thoughts {_time(work.thinking_s(card))} of it" if work.token_steps else ""
    rows = [
        ("assumed card", card.name, card.source),
        (
            "drawing a group",
            _time(work.draw_s(card)),
            f"{work.drawing:,.0f} TFLOP{thinking}",
        ),
        ("learning a group", _time(work.learn_s(card)), f"{work.learning:,.0f} TFLOP"),
    ]
    rows += [_stage_row(prediction, name) for name in forecast.stages]
    rows += [
        ("weights and optimizer", _time(forecast.sync_s), ""),
        ("T* = longest stage", _time(forecast.bound_s), "its work spread evenly: the lower bound"),
        ("T = one step", _time(step_s), f"eta = T*/T = {forecast.efficiency:.0%}"),
        (
            "T without streaming",
            _time(prediction.unstreamed.step_s),
            "learner.streamed false: all is drawn before anything is learnt",
        ),
    ]
    if config.task.think and prediction.cap > model.thought_tokens:
        rows.append(
            (
                f"T, thoughts of {prediction.cap:,}",
                _time(prediction.capped.step_s),
                f"the cap; the other figures assume {model.thought_tokens} tokens",
            )
        )
    num_steps = config.training.num_steps
    rows.append((f"all {num_steps:,} steps", _time(num_steps * step_s), "evaluations left out"))
    return rows


def change_rows(prediction: Prediction) -> list[Row]:
    """The table on what would shorten a step, the most first."""
    step_s = prediction.forecast.step_s
    return [
        (
            change.name,
            _time(change.forecast.step_s),
            f"{step_s / change.forecast.step_s:.2f} x as fast, "
            f"{_cards(change.extra_cards)}: "
            f"{change.settings}",
        )
        for change in prediction.changes
    ]


def advice(prediction: Prediction) -> str:
    """One sentence on the change that shortens a step most."""
    step_s, best = prediction.forecast.step_s, prediction.best
    if best is None:
        return f"none of these changes shortens a step by more than {WORTH_IT:.0%}"
    return (
        f"{best.name} would shorten a step most, from {_time(step_s)} to "
        f"{_time(best.forecast.step_s)}: {best.settings}"
    )


def judging_note(prediction: Prediction) -> str:
    """What the figures on verdicts rest on."""
    if prediction.mesh.judges is None:
        return "no GPUs of the verifier are known: the predicted step waits for no verdict"
    return (
        f"assumed, not measured: {questions_per_picture(prediction.model.config)} questions a "
        f"picture, {QUESTIONS_PER_S:.0f} a second answered by each judge's GPU"
    )


def mesh_notes(config: RunConfig) -> list[str]:
    """What the config itself says of speed, on any card: runners without work, the price of lag."""
    rollout, notes = config.rollout, []
    batches = rollout.prompts_per_step * rollout.slices
    if rollout.num_runners > batches:
        notes.append(
            f"{rollout.num_runners - batches} of {rollout.num_runners} runners have nothing to "
            f"draw in a step of {batches} batches (rollout.prompts_per_step "
            f"{rollout.prompts_per_step} x rollout.slices {rollout.slices}); raise rollout.slices "
            "or lower rollout.num_runners"
        )
    if lag := announced_lag(config):
        notes.append(lag)
    return notes


def _stage_row(prediction: Prediction, name: str) -> Row:
    stage, mesh = prediction.forecast.stages[name], prediction.mesh
    if name == "verify" and mesh.judges is None:
        return (STAGES[name], "-", "judges not known")
    workers = {
        "draw": f"runners: {mesh.runners}",
        "verify": f"judge GPUs: {mesh.judges or 0:g}",
        "learn": f"ranks: {mesh.ranks}",
        "shared": f"cards: {mesh.runners}",
    }
    work = f"W = {_time(stage.work_s)}"
    if name == "shared":
        forecast = prediction.forecast
        work = f"W = {_time(forecast.draw_work_s)} + {_time(forecast.learn_work_s)}"
    busy = f"{prediction.forecast.busy(name):.0%} busy"
    return (STAGES[name], _time(stage.busiest_s), f"{work}; {workers[name]}, {busy}")


def _cards(number: int) -> str:
    if number == 0:
        return "with the cards there are"
    return "a card more" if number == 1 else f"{number} cards more"


def _time(seconds: float) -> str:
    """``35.0 s``, ``17.0 min``, ``4.9 h``, ``81.4 days``"""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
