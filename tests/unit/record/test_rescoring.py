"""Recorded samples scored again: from the ledger's verdicts, and from kept pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphagrpo.algorithms.advantages import group_advantages
from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError, ServiceUnavailable
from alphagrpo.eval.rescored import PairedGroup, RescoreComparison
from alphagrpo.images import encode_png, image_hash
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.record.folder import RunFolder
from alphagrpo.record.rescoring import NO_DRAFT, NO_PICTURE, NO_VERDICTS, Rescorer
from alphagrpo.rewards.judging import judge_picture
from alphagrpo.rewards.programs import DVReward, Holistic
from alphagrpo.rewards.rectification import rectify
from alphagrpo.step.blocks import training_batch
from alphagrpo.types import Prompt, Question
from tests.fakes import FakeVerifier, make_config, make_job, make_questions

SIZE = 4


def pixels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def brightness(pixels: np.ndarray, question: Question) -> float:
    """A judge with an opinion of its own."""
    return float(pixels[..., 0 if question.kind == "semantic" else 1].mean()) / 255


async def sample(seed: int, *, kept: bool = True, bonus: float = 0.0) -> Sample:
    pixels = pixels_of(seed)
    score = await judge_picture(DVReward(), make_questions("a"), pixels, FakeVerifier())
    return Sample(
        id=str(seed),
        thought="",
        score=score,
        reward=score.value + bonus,
        png=encode_png(pixels) if kept else None,
        picture_hash=image_hash(pixels),
    )


async def record(
    output: Path, groups: list[GroupReport], **sections: Any
) -> tuple[RunFolder, RunConfig]:
    config = make_config(output=str(output), **sections)
    folder = RunFolder.create(config)
    batch = training_batch(groups, config)
    folder.record_step(1, groups, batch.groups)
    return folder, config


def group_of(prompt: str, samples: list[Sample], **more: Any) -> GroupReport:
    job = make_job(Prompt(id=prompt, text=prompt), make_config())
    job = replace(job, task=more.pop("task", "rt2i"), group_size=len(samples))
    return GroupReport(
        job=job, questions=make_questions("a"), samples=tuple(samples), reference=None,
        runner="r", **more,
    )  # fmt: skip


async def two_groups(kept: Callable[[int], bool] = lambda _: True) -> list[GroupReport]:
    return [
        group_of(name, [await sample(first + i, kept=kept(i), bonus=0.2 * (i % 2))
                        for i in range(SIZE)])
        for name, first in (("p", 0), ("q", 10))
    ]  # fmt: skip


async def test_the_ledgers_own_verdicts_give_the_ledgers_own_scores(tmp_path: Path) -> None:
    folder, config = await record(tmp_path, await two_groups(lambda _: False))
    groups = await Rescorer(folder, config, DVReward()).step(1)
    assert [group.name for group in groups] == ["1/0", "1/1"]
    for one in (sample for group in groups for sample in group.samples):
        assert one.new_score == pytest.approx(one.score, abs=1e-6)
        assert one.new_reward == pytest.approx(one.reward, abs=1e-6)


async def test_another_program_over_the_same_verdicts_keeps_each_samples_bonus(
    tmp_path: Path,
) -> None:
    groups = await two_groups(lambda _: False)
    folder, config = await record(tmp_path, groups)
    rescored, _ = await Rescorer(folder, config, DVReward(aggregate="mean")).step(1)
    for index, (old, new) in enumerate(zip(groups[0].samples, rescored.samples, strict=True)):
        assert old.score is not None
        expected = (old.score.semantic + (old.score.quality or 0)) / 2
        assert new.new_score == pytest.approx(expected, abs=1e-6)
        assert new.new_reward == pytest.approx(expected + 0.2 * (index % 2), abs=1e-6)


async def test_another_judge_is_asked_about_kept_pictures_only(tmp_path: Path) -> None:
    folder, config = await record(tmp_path, await two_groups(lambda i: i < 3))
    verifier = FakeVerifier(brightness)
    first, _ = await Rescorer(folder, config, DVReward(), verifier).step(1)
    assert verifier.calls == 6
    assert [one.reason for one in first.samples] == ["", "", "", NO_PICTURE]
    assert first.samples[3].rewards is None
    for index in range(3):
        red, green, _ = pixels_of(index).mean(axis=(0, 1)) / 255
        assert first.samples[index].new_score == pytest.approx((red * green) ** 0.5, abs=1e-6)


async def test_a_program_that_needs_other_answers_asks_for_them_or_says_so(
    tmp_path: Path,
) -> None:
    folder, config = await record(tmp_path, await two_groups())
    first, _ = await Rescorer(folder, config, Holistic()).step(1)
    assert {one.reason for one in first.samples} == {NO_VERDICTS}
    verifier = FakeVerifier(brightness)
    first, _ = await Rescorer(folder, config, Holistic(), verifier, reuse=True).step(1)
    assert all(one.new_score is not None for one in first.samples)
    assert verifier.calls == 8


async def test_verdicts_of_the_same_judge_are_not_asked_for_again(tmp_path: Path) -> None:
    folder, config = await record(tmp_path, await two_groups())
    for reuse, calls in ((True, 0), (False, 8)):
        verifier = FakeVerifier()
        rescorer = Rescorer(folder, config, DVReward(), verifier, reuse=reuse)
        rescorer.judge = "fake@1"
        await rescorer.step(1)
        assert verifier.calls == calls
    other = FakeVerifier()
    rescorer = Rescorer(folder, config, DVReward(), other, reuse=True)
    rescorer.judge = "other@1"
    await rescorer.step(1)
    assert other.calls == 8, "another judge's verdicts are no substitute"


async def test_a_grade_comes_back_from_the_ledger_exactly(tmp_path: Path) -> None:
    questions = Holistic().questions(make_questions("a"))
    samples = []
    for seed in range(SIZE):
        score = await judge_picture(
            Holistic(), make_questions("a"), pixels_of(seed), FakeVerifier()
        )
        samples.append(replace(await sample(seed), score=score, reward=score.value))
    folder, config = await record(
        tmp_path, [group_of("a", samples)], reward={"program": "holistic"}
    )
    (group,) = await Rescorer(folder, config, Holistic()).step(1)
    assert len(questions) == 2
    assert [one.reason for one in group.samples] == [""] * SIZE
    assert [one.new_score for one in group.samples] == [
        pytest.approx(one.score, abs=1e-6) for one in group.samples
    ]
    with pytest.raises(ConfigError, match="has none of them; choose a program"):
        Rescorer(folder, config, DVReward())


async def test_a_refinement_is_rectified_against_its_drafts_new_score(tmp_path: Path) -> None:
    samples = [await sample(i) for i in range(SIZE)]
    drafts = (replace(await sample(20), reward=None), replace(await sample(21), reward=None))
    start = drafts[1].score
    assert start is not None
    values = rectify(
        [one.score.value if one.score else None for one in samples], start.value, "max"
    )
    samples = [replace(one, reward=(v or 0) + 0.2) for one, v in zip(samples, values, strict=True)]
    sections = {
        "task": {"kind": "srr"}, "refinement": {"prompt": "it is {prompt}"},
        "reward": {"format_bonus": 0.2},
    }  # fmt: skip
    group = group_of("p", samples, task="srr", drafts=drafts, draft=1)
    folder, config = await record(tmp_path, [group], **sections)
    (same,) = await Rescorer(folder, config, DVReward()).step(1)
    assert [one.new_reward for one in same.samples] == [
        pytest.approx(one.reward, abs=1e-6) for one in same.samples
    ]
    (bright,) = await Rescorer(folder, config, DVReward(), FakeVerifier(brightness)).step(1)
    floor = brightness_score(21)
    assert [one.new_reward for one in bright.samples] == [
        pytest.approx(max(brightness_score(i), floor) + 0.2, abs=1e-6) for i in range(SIZE)
    ]
    (folder.path / "images" / f"{drafts[1].picture_hash}.png").unlink()
    (lost,) = await Rescorer(folder, config, DVReward(), FakeVerifier(brightness)).step(1)
    assert {one.reason for one in lost.samples} == {NO_DRAFT}


def brightness_score(seed: int) -> float:
    red, green, _ = pixels_of(seed).mean(axis=(0, 1)) / 255
    return float(red * green) ** 0.5


async def test_a_judge_that_answers_nothing_ends_it(tmp_path: Path) -> None:
    folder, config = await record(tmp_path, await two_groups())
    with pytest.raises(ServiceUnavailable):
        await Rescorer(folder, config, DVReward(), FakeVerifier(fail_calls=range(8))).step(1)
    groups = await Rescorer(folder, config, DVReward(), FakeVerifier(fail_calls=[0])).step(1)
    reasons = [one.reason for group in groups for one in group.samples if one.reason]
    assert reasons == ["ServiceUnavailable: the fake verifier is down; wait"]


def test_advantages_of_both_kinds_are_compared_over_the_steps_blocks() -> None:
    old = {"a": [0.1, 0.5, 0.9], "b": [0.2, 0.3, 0.7], "c": [0.0, 0.4, 0.5]}
    new = {"a": [0.9, 0.5, 0.1], "b": [0.2, 0.3, 0.7], "c": [0.1, 0.4, 0.9]}
    algorithm = make_config(algorithm={"advantage_prompts": 2}).algorithm
    comparison = RescoreComparison(algorithm)
    comparison.add(
        [PairedGroup(name=n, task="rt2i", prompt=n, old=old[n], new=new[n]) for n in old]
        + [PairedGroup(name="d", task="rt2i", prompt="d", old=[0.5], new=[0.1])]
    )
    figures = comparison.figures()
    assert (figures.groups, figures.samples, figures.pairs) == (3, 9, 9)
    assert figures.flipped == pytest.approx(3 / 9)
    assert figures.kendall == pytest.approx((-1 + 1 + 1) / 3)
    assert (figures.most_changed[0].name, figures.most_changed[0].kendall) == ("a", -1)
    for std, blocks in (("group", ["a", "b", "c"]), ("batch", ["ab", "c"])):
        changes = []
        for block in blocks:
            sides = [
                group_advantages([side[n] for n in block], std=std, epsilon=1e-4)  # type: ignore
                for side in (old, new)
            ]
            changes += [
                abs(y - x) for b, a in zip(*sides, strict=True) for x, y in zip(b, a, strict=True)
            ]
        assert figures.advantages[std].mean_change == pytest.approx(sum(changes) / 9)  # type: ignore
        assert figures.advantages[std].sign_changed == pytest.approx(3 / 9)  # type: ignore


def test_nothing_to_compare_has_no_figures() -> None:
    figures = RescoreComparison(make_config().algorithm).figures()
    assert (figures.groups, figures.kendall, figures.flipped, figures.advantages) == (
        0, None, None, {},
    )  # fmt: skip
