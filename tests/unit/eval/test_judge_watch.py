"""The judge watch: what pictures show, which figures are alarms, and when those begin and end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alphagrpo.config.watch import WatchConfig
from alphagrpo.eval.alarms import ALARM_KINDS, alarm_key, alarms, figures_of
from alphagrpo.eval.probe import PROMPT_SET
from alphagrpo.eval.watch import MAX_LOOKED_AT, JudgeWatch, PictureWatch, kept_samples
from alphagrpo.images import encode_png, image_hash
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.types import Prompt
from tests.fakes import make_config, make_job, make_questions


def group(prompt: str, *pictures: np.ndarray, kept: bool = True) -> GroupReport:
    job = make_job(Prompt(id=prompt, text=prompt), make_config())
    samples = tuple(
        Sample(
            id=f"{prompt}/{index}",
            thought="",
            score=None,
            reward=None,
            png=encode_png(pixels) if kept else None,
            picture_hash=image_hash(pixels),
        )
        for index, pixels in enumerate(pictures)
    )
    return GroupReport(
        job=replace(job, group_size=len(samples)),
        questions=make_questions(prompt),
        samples=samples,
        reference=None,
        runner="r",
    )


def noise(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


def colour(value: int) -> np.ndarray:
    return np.full((16, 16, 3), value, np.uint8)


def test_lively_pictures_are_far_apart() -> None:
    figures = PictureWatch(3).look([group("a", noise(1), noise(2)), group("b", noise(3))])
    assert figures["watch/same_share"] == pytest.approx(1 / 3)
    assert figures["watch/repeat_share"] == figures["watch/flat_share"] == 0
    assert figures["watch/picture_spread"] > 0.1


def test_one_picture_one_colour_and_nearly_the_same_pictures_are_seen() -> None:
    one = PictureWatch(3).look([group("a", noise(1), noise(1)), group("b", noise(1))])
    assert one["watch/same_share"] == one["watch/repeat_share"] == 1
    assert one["watch/picture_spread"] == pytest.approx(0, abs=1e-6)
    flat = PictureWatch(3).look([group("a", colour(3), colour(200)), group("b", colour(90))])
    assert flat["watch/flat_share"] == 1
    close = noise(1) // 2
    near = PictureWatch(3).look([group("a", close), group("b", close + 1)])
    assert near["watch/same_share"] == 0.5
    assert near["watch/picture_spread"] == pytest.approx(0.5 / 255)


def test_pictures_of_one_prompt_may_be_alike() -> None:
    figures = PictureWatch(3).look([group("a", noise(1), noise(1))])
    assert "watch/picture_spread" not in figures
    assert figures["watch/repeat_share"] == 0


def test_a_picture_of_another_prompt_is_remembered_for_some_steps() -> None:
    watch = PictureWatch(2)
    assert watch.look([group("a", noise(1))])["watch/repeat_share"] == 0
    assert watch.look([group("a", noise(1)), group("b", noise(2))])["watch/repeat_share"] == 0
    assert watch.look([group("c", noise(2), noise(3))])["watch/repeat_share"] == 0.5
    watch.look([group("d", noise(4))])
    watch.look([group("d", noise(4))])
    assert watch.look([group("e", noise(1))])["watch/repeat_share"] == 0


def test_hashes_alone_are_enough_and_without_them_there_is_no_figure() -> None:
    figures = PictureWatch(2).look([group("a", noise(1), noise(1), kept=False)])
    assert figures == {"watch/same_share": 1, "watch/repeat_share": 0}
    bare = group("a", noise(1), kept=False)
    bare = replace(bare, samples=(replace(bare.samples[0], picture_hash=""),))
    assert PictureWatch(2).look([bare]) == {}


def test_few_pictures_of_every_group_are_looked_at() -> None:
    pixels = noise(0)
    groups = [group(str(index), *[pixels] * 20) for index in range(5)]
    looked = [one.job.prompt.id for one, _ in kept_samples(groups)]
    assert len(looked) == MAX_LOOKED_AT
    assert min(looked.count(str(index)) for index in range(5)) == 12


def observe(watch: JudgeWatch, **figures: float) -> tuple[dict[str, float], Any]:
    return watch.observe({key.replace("__", "/"): value for key, value in figures.items()})


@pytest.mark.parametrize(
    ("kind", "bad", "good"),
    [
        ("drift", {"watch__canary_drift": 0.06}, {"watch__canary_drift": 0.04}),
        (
            "constant",
            {"watch__same_share": 0.6},
            {"watch__same_share": 0.1, "watch__flat_share": 0},
        ),
        (
            "constant",
            {"watch__same_share": 0.1, "watch__picture_spread": 0.001, "watch__flat_share": 0.0},
            {"watch__same_share": 0.1, "watch__picture_spread": 0.1, "watch__flat_share": 0.0},
        ),
        ("repeat", {"watch__repeat_share": 0.2}, {"watch__repeat_share": 0.0}),
    ],
)
def test_an_alarm_begins_once_and_ends_once(kind: Any, bad: Any, good: Any) -> None:
    watch, key = JudgeWatch(WatchConfig()), alarm_key(kind)
    told = [observe(watch, **figures) for figures in (good, bad, bad, good, good)]
    assert [flags[key] for flags, _ in told] == [0, 1, 1, 0, 0]
    assert [changes.begun for _, changes in told] == [(), (kind,), (), (), ()]
    assert [changes.ended for _, changes in told] == [(), (), (), (kind,), ()]


def test_what_kept_pictures_showed_lasts_until_pictures_are_kept_again() -> None:
    watch = JudgeWatch(WatchConfig())
    observe(watch, watch__same_share=0.1, watch__flat_share=1.0)
    flags, changes = observe(watch, watch__same_share=0.1)
    assert flags["watch/alarm_constant"] == 1
    assert changes.ended == ()
    _, changes = observe(watch, watch__same_share=0.1, watch__flat_share=0.0)
    assert changes.ended == ("constant",)


def lines(heldout: list[float], rewards: list[float]) -> list[dict[str, float]]:
    """Two steps to each probe, of which the second has the oracle's figures."""
    steps: list[dict[str, float]] = []
    for number, (judged, reward) in enumerate(zip(heldout, rewards, strict=True)):
        steps.append({"step": 2 * number + 1, "reward/score": reward - 0.1})
        steps.append(
            {
                "step": 2 * number + 2,
                "reward/score": reward + 0.1,
                "heldout/plain_per_question": judged,
                "heldout/thought_per_question": judged - 0.2,
                PROMPT_SET: 5,
            }
        )
    return steps


RISES = [0.5 + 0.01 * i for i in range(12)]
FALLS = [0.9 - 0.01 * i for i in range(12)]


def flags_of(watch: JudgeWatch, metrics: list[dict[str, float]]) -> list[float | None]:
    return [watch.observe(line)[0].get("watch/alarm_divergence") for line in metrics]


def test_the_reward_parts_from_the_probes_oracle() -> None:
    flags = flags_of(JudgeWatch(WatchConfig()), lines(FALLS, RISES))
    assert flags[:19] == [None] * 19, "ten looks are needed"
    assert flags[19:] == [1] * 5
    assert set(flags_of(JudgeWatch(WatchConfig()), lines(RISES, RISES))[19:]) == {0}


def test_a_resumed_run_goes_on_where_its_metrics_end() -> None:
    steps = lines(FALLS, RISES)
    watch = JudgeWatch(WatchConfig(), steps[:18])
    assert flags_of(watch, steps[18:20]) == [None, 1]
    begun = [{**line, "watch/alarm_divergence": 1.0} for line in steps[:22]]
    _, changes = JudgeWatch(WatchConfig(), begun).observe(steps[23])
    assert changes.begun == (), "it was on before"


def test_probes_of_other_prompts_begin_anew() -> None:
    steps = lines(FALLS, RISES)
    changed = [{**line, PROMPT_SET: 6} if line["step"] > 18 else line for line in steps]
    assert set(flags_of(JudgeWatch(WatchConfig()), changed)) == {None}


def test_a_second_verifier_takes_the_oracles_place() -> None:
    watch = JudgeWatch(WatchConfig(heldout_app="other"))
    assert set(flags_of(watch, lines(FALLS, RISES))) == {None}
    told = [
        watch.observe({"watch/heldout_score": low, "watch/heldout_reward": high})[0]
        for low, high in zip(FALLS, RISES, strict=True)
    ]
    assert told[-1]["watch/alarm_divergence"] == 1


def test_alarms_of_a_run_are_told_with_steps_and_figures() -> None:
    key = alarm_key("drift")
    metrics = [
        {"step": 1, key: 0.0, "watch/canary_drift": 0.0},
        {"step": 2, key: 1.0, "watch/canary_drift": 0.5, "watch/canary_accuracy": 0.75},
        {"step": 3},
        {"step": 4, key: 1.0, "watch/canary_drift": 0.9},
        {"step": 5, key: 0.0},
        {"step": 6, alarm_key("repeat"): 1.0, "watch/repeat_share": 0.5},
    ]
    over, on = alarms(metrics)
    assert (over.begun, over.ended, on.begun, on.ended) == (2, 5, 6, None)
    assert over.text == "the judge drifts, since step 2 until step 5 (accuracy 75.0%, drift 0.500)"
    assert "share drawn for another prompt too 50.0%" in on.text
    assert alarms([{"step": 1}]) == []
    assert [figures_of(kind, {}) for kind in ALARM_KINDS] == [""] * 4
