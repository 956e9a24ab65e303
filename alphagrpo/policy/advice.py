"""What would make a step quicker: each change alone, played through. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from alphagrpo.policy.forecast import Forecast, Mesh, StepModel

WORTH_IT = 0.01
"""Share of a step below which a change is no advice."""
SHARED_CARDS = "shared cards"
MOST_MORE = 8
"""Most runners, ranks or judges more that are tried: a step goes in whole groups, so that one more
often changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of the mesh."""

    name: str
    settings: str
    """What to set in the run config, or where else."""
    mesh: Mesh
    extra_cards: int
    forecast: Forecast

    def helps(self, now: Forecast) -> bool:
        """Whether it shortens a step by enough to be advice."""
        return self.forecast.step_s < (1 - WORTH_IT) * now.step_s


def changes(model: StepModel, mesh: Mesh) -> list[Change]:
    """Every change that ``mesh`` allows, the quickest first; of equals the cheapest.

    More runners, ranks or judges take as many cards more: the fewest that help, or one. The others
    use the cards there are.
    """
    candidates = [*_more(model, mesh), *_slices(model, mesh), *_same_cards(model, mesh)]
    return sorted(candidates, key=lambda change: (change.forecast.step_s, change.extra_cards))


def shared_mesh(mesh: Mesh, cards: int, prompts: int, group_size: int) -> Mesh | None:
    """All cards draw and learn; slices as few as give each of them some. None where none would."""
    slices = max(mesh.slices, -(-cards // prompts))
    if slices > group_size:
        return None
    return replace(mesh, shared=True, runners=cards, ranks=cards, slices=slices, max_lag=0)


def _change(model: StepModel, mesh: Mesh, name: str, settings: str, extra_cards: int = 0) -> Change:
    return Change(
        name=name,
        settings=settings,
        mesh=mesh,
        extra_cards=extra_cards,
        forecast=model.forecast(mesh),
    )


def _more(model: StepModel, mesh: Mesh) -> Iterator[Change]:
    now, prompts = model.forecast(mesh), model.config.rollout.prompts_per_step

    def fewest(role: str, settings: str, grown: Callable[[int], Mesh]) -> Iterator[Change]:
        found = []
        for more in range(1, MOST_MORE + 1):
            other = grown(more)
            if other.shared and other.runners > prompts * other.slices:
                break
            if not other.shared and other.ranks > prompts * other.slices:
                break
            name = f"another {role}" if more == 1 else f"{more} more {role}s"
            text = settings.format(runners=other.runners, ranks=other.ranks, more=more)
            found.append(_change(model, other, name, text, more))
            if found[-1].helps(now):
                yield found[-1]
                return
        yield from found[:1]

    def runners(more: int) -> Mesh:
        number = mesh.runners + more
        return replace(mesh, runners=number, ranks=number if mesh.shared else mesh.ranks)

    yield from fewest("card" if mesh.shared else "runner", "rollout.num_runners {runners}", runners)
    if not mesh.shared:
        yield from fewest(
            "rank", "learner.ranks {ranks}", lambda more: replace(mesh, ranks=mesh.ranks + more)
        )
    judges = mesh.judges
    if judges is not None:
        yield from fewest(
            "verifier",
            "replicas more in the Serve file: {more}",
            lambda more: replace(mesh, judges=judges + more),
        )


def _slices(model: StepModel, mesh: Mesh) -> Iterator[Change]:
    """The fewest slices that are about as good as any other number of them; none where a group
    cannot be split so that all learn.
    """
    rollout = model.config.rollout
    others = [
        _change(model, replace(mesh, slices=slices), "slices", f"rollout.slices {slices}")
        for slices in range(1, rollout.group_size + 1)
        if slices != mesh.slices and rollout.prompts_per_step * slices >= mesh.ranks
    ]
    best_s = min((change.forecast.step_s for change in others), default=0.0)
    good = [change for change in others if change.forecast.step_s <= (1 + WORTH_IT) * best_s]
    yield from good[:1]


def _same_cards(model: StepModel, mesh: Mesh) -> Iterator[Change]:
    rollout = model.config.rollout
    if not mesh.streamed:
        other = replace(mesh, streamed=True)
        yield _change(model, other, "streaming", "learner.streamed true")
    if mesh.shared:
        return
    cards, prompts = mesh.runners + mesh.ranks, rollout.prompts_per_step
    shared = shared_mesh(mesh, cards, prompts, rollout.group_size)
    if shared is not None:
        settings = {
            "learner.placement runners": True,
            "learner.ranks 1": mesh.ranks > 1,
            "learner.gpus 0": model.config.learner.gpus > 0,
            f"rollout.num_runners {cards}": True,
            f"rollout.slices {shared.slices}": shared.slices != mesh.slices,
            "rollout.max_lag 0": mesh.max_lag > 0,
        }
        text = ", ".join(setting for setting, needed in settings.items() if needed)
        yield _change(model, shared, SHARED_CARDS, text)
    splits = [
        _change(
            model,
            replace(mesh, runners=runners, ranks=cards - runners),
            "another split",
            f"rollout.num_runners {runners}, learner.ranks {cards - runners}",
        )
        for runners in range(1, cards)
        if runners != mesh.runners and cards - runners <= prompts * mesh.slices
    ]
    yield from sorted(splits, key=lambda change: change.forecast.step_s)[:1]
