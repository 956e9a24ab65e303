"""The front of several ranks: who is asked what, in which order, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from alphagrpo import deadlines as deadlines_module
from alphagrpo.config import RunConfig
from alphagrpo.errors import EnvironmentProblem, LearnerLost, ParityError, PolicyDataError
from alphagrpo.learner.notes import GroupNotes
from alphagrpo.learner.ranked import RankedLearner
from alphagrpo.learner.steps import LearnerState, StepTaken
from alphagrpo.training import CallOrder, SampleWeights, TrainingBlock, TrainingGroup
from tests.fakes import FakeLearner, make_config


class FakeRank:
    """Notes what it is asked, and may be slow, silent or of another mind."""

    def __init__(self, name: int, log: list[str], **traits: Any) -> None:
        self.name, self.log, self.traits = name, log, traits
        self.busy = 0

    async def alive(self) -> None:
        if self.traits.get("silent"):
            await asyncio.Event().wait()

    async def open(self) -> tuple[str, int]:
        self.log.append(f"open {self.name}")
        return "here", 7

    async def join(self, host: str, port: int, rank: int) -> None:
        assert (host, port, rank) == ("here", 7, self.name)

    async def fingerprint(self) -> str:
        return self.traits.get("fingerprint", "f" * 64)

    async def begin(self, attempt: int) -> LearnerState:
        return LearnerState(step=self.traits.get("step", 3), version=3)

    async def accumulate(self, groups: Any, order: CallOrder) -> list[GroupNotes]:
        self.busy += 1
        assert self.busy <= 2, "it fetches one while it replays another"
        await asyncio.sleep(self.traits.get("delay_s", 0))
        self.busy -= 1
        self.log.append(f"{self.name}: {[g.place for g in groups]} below {order.settled}")
        return [
            GroupNotes(
                place=group.place,
                turns=((f"p{group.place}", 1),),
                policy_version=3,
                rewards=(0.0, 1.0),
                advantages=group.samples.advantages,
                sums={"text/loss": 2.0},
                samples={"text": 2.0},
                largest={"image": self.traits.get("log_ratio", 0.0)},
                seconds=1.0,
            )
            for group in groups
        ]

    async def finish(self, end: Any) -> StepTaken:
        self.log.append(f"finish {self.name} {sorted(end.visits)} {end.teaches}")
        figures = {"learner/grad_norm": 0.5} if end.teaches else {}
        return StepTaken(step=4, seconds=0.5, figures=figures)

    async def publish(self) -> Any:
        self.log.append(f"publish {self.name}")
        return await FakeLearner().publish()

    async def follow(self, manifest: Any, check: bool) -> None:
        self.log.append(f"follow {self.name} {check}")

    async def save(self, folder: str) -> None:
        self.log.append(f"save {self.name}")

    async def load(self, folder: str) -> int:
        self.log.append(f"load {self.name}")
        return 4


def front_of(
    *traits: dict[str, Any], deadlines: dict[str, float] | None = None, **learner: Any
) -> tuple[RankedLearner, list[str]]:
    log: list[str] = []
    config: RunConfig = make_config(
        learner={"ranks": len(traits), **learner},
        rollout={"prompts_per_step": 8},
        deadlines=deadlines or {},
    )
    return RankedLearner([FakeRank(i, log, **t) for i, t in enumerate(traits)], config), log


def block(
    *ranks: int, first: int = 0, advantage: float = 1.0, number: int = 0, attempt: int = 0
) -> TrainingBlock:
    weights = SampleWeights((advantage, -advantage), (1.0, 1.0))
    groups = (
        TrainingGroup(reference=None, samples=weights, place=first + i, rank=rank)
        for i, rank in enumerate(ranks)
    )
    return TrainingBlock(groups=tuple(groups), order=CallOrder(attempt, number, first))


async def test_each_rank_gets_its_own_groups_and_all_end_the_step() -> None:
    front, log = front_of({}, {}, {})
    await front.begin(0)
    await front.accumulate(block(0, 1, 0))
    await front.accumulate(block(1, first=3, number=1))
    assert log == ["0: [0, 2] below 0", "1: [1] below 0", "1: [3] below 3"]
    log.clear()
    report = await front.finish(8.0)
    visits = ["p0", "p1", "p2", "p3"]
    assert log == [f"finish {rank} {visits} True" for rank in range(3)]
    assert report.step == 4
    assert report.metrics["text/loss"] == 1.0, "four groups' sums of 2 over 8 samples"
    assert report.metrics["learner/grad_norm"] == 0.5
    assert (report.seconds.total, report.seconds.longest) == (5.5, 2.5)
    assert report.metrics["learner/rank_groups_max"] == 2


async def test_a_slow_rank_does_not_hold_up_another() -> None:
    front, log = front_of({"delay_s": 0.05}, {})
    await front.begin(0)
    slow = [block(0, first=place, number=place) for place in range(2)]
    waiting = [asyncio.create_task(front.accumulate(late)) for late in slow]
    await asyncio.sleep(0)
    await front.accumulate(block(1, first=2, number=2))
    assert log == ["1: [2] below 2"]
    await asyncio.gather(*waiting)


async def test_what_an_abandoned_step_has_summed_is_not_in_the_next() -> None:
    front, log = front_of({}, {})
    await front.begin(0)
    await front.accumulate(block(0, 1))
    await front.begin(1)
    await front.accumulate(block(1, first=5, attempt=1))
    await front.accumulate(block(0, first=9))
    await front.finish(2.0)
    assert log[-1] == "finish 1 ['p5'] True", "nor what comes of it late"


async def test_what_calls_say_of_places_counts_once_those_before_them_are_there() -> None:
    front, log = front_of({}, {})
    await front.begin(0)
    await front.accumulate(block(0, first=4, number=2))
    await front.accumulate(block(1, first=2, number=0))
    await front.accumulate(block(0, first=3, number=1))
    assert log == ["0: [4] below 0", "1: [2] below 2", "0: [3] below 4"]


async def test_a_step_that_teaches_nothing_is_not_taken() -> None:
    front, log = front_of({}, {})
    await front.begin(0)
    await front.accumulate(block(0, 1, advantage=0.0))
    report = await front.finish(4.0)
    assert report.skipped
    assert log[-2:] == ["finish 0 ['p0', 'p1'] False", "finish 1 ['p0', 'p1'] False"]


async def test_a_first_step_at_odds_on_one_rank_is_taken_on_none() -> None:
    front, log = front_of({"step": 0}, {"step": 0, "log_ratio": 1e-3})
    await front.begin(0)
    await front.accumulate(block(0, 1))
    with pytest.raises(ParityError, match=r"image part has 1\.0e-03"):
        await front.finish(4.0)
    assert not [line for line in log if line.startswith("finish")]
    await front.begin(0)
    with pytest.raises(PolicyDataError, match="at least one group"):
        await front.finish(4.0)


async def test_ranks_with_other_parameters_are_refused_at_the_start() -> None:
    front, _ = front_of({}, {"fingerprint": "0" * 64})
    with pytest.raises(EnvironmentProblem, match=r"rank 1 has 0{12} and rank 0 f{12}.*folder"):
        await front.start()
    alone, log = front_of({})
    await alone.start()
    assert log == [], "one rank has nobody to meet"


async def test_ranks_prove_their_parameters_every_so_many_steps() -> None:
    for step, checked in ((4, True), (5, False)):
        front, log = front_of({"step": step}, {"step": step}, check_every=4)
        await front.begin(0)
        await front.publish()
        assert log == ["publish 0", f"follow 1 {checked}"]


async def test_a_rank_that_does_not_answer_is_lost() -> None:
    front, _ = front_of({}, {"delay_s": 5.0}, deadlines={"first_s": 0.05})
    await front.begin(0)
    with pytest.raises(LearnerLost, match=r"rank 1 of the learner must answer a call \(replay\)"):
        await front.accumulate(block(0, 1))


async def test_of_two_ranks_that_wait_for_each_other_the_silent_one_is_named(monkeypatch) -> None:
    monkeypatch.setattr(deadlines_module, "FIRST_WORD_S", 0.05)
    slow = {"delay_s": 5.0}
    front, _ = front_of(slow, {**slow, "silent": True}, deadlines={"ping_s": 0.05})
    await front.begin(0)
    with pytest.raises(LearnerLost, match=r"rank 1 of the learner must say within"):
        await front.accumulate(block(0, 1))


async def test_one_rank_saves_and_all_load() -> None:
    front, log = front_of({}, {})
    await front.save("there")
    assert await front.load("there") == 4
    assert log == ["save 0", "load 0", "load 1"]
