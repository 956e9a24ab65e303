"""Combinations that cannot work are refused with the rule, the values and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError
from tests.fakes import make_config

REFLECTION = {"prompt": "the picture should be {prompt}"}
SILENT = {"task": {"think": False}, "reward": {"format_bonus": 0}}

EXPERTS = {"path": "x", "trainable": "experts"}
RULES = [
    (
        {"rollout": {"flow": {"num_points": 5, "window": {"allowed": [0, 11]}}}},
        r"rollout\.flow\.window\.allowed .* schedule's 4 steps, got \[0, 11\)",
        r"raise rollout\.flow\.num_points or narrow the range",
    ),
    (
        {"rollout": {"flow": {"window": {"length": 3, "allowed": [4, 4]}}}},
        r"got \[4, 4\)",
        "narrow the range",
    ),
    (
        {"rollout": {"flow": {"window": {"length": 3, "allowed": [0, 2]}}}},
        r"got 3 steps in \[0, 2\)",
        "shorten the window or widen the range",
    ),
    (
        {"rollout": {"flow": {"window": {"length": 3}, "guidance": {"interval": [0.5, 0.5]}}}},
        r"interval must be increasing, got \[0\.5, 0\.5\]",
        "swap them",
    ),
    (
        {"optimizer": {"decay_steps": 99}},
        r"decay_steps must be at least training\.num_steps, got 99 and 100",
        "set both to the same number",
    ),
    (
        {"task": {"think": False}},
        r"format_bonus rewards a well-formed thought, got 1\.0 with task\.think false",
        r"set reward\.format_bonus to 0",
    ),
    (
        SILENT | {"algorithm": {"image": {"enabled": False}}},
        r"nothing would train with task\.think and algorithm\.image\.enabled both false",
        "turn one of them on",
    ),
    (
        {"placement": {"learner": {"mesh pool": "learner"}}},
        r"placement\.learner: the key of a node label must be letters.*got 'mesh pool'",
        r"write for example mesh\.pool",
    ),
    *(
        (
            {"placement": {"rollout": {"mesh.pool": condition}}},
            r"placement\.rollout: a label's condition must read .*, without spaces, got .* for",
            "write for example mesh.pool: learner",
        )
        for condition in ("", "a b", "in()", "in(a b)", "in(a, b)", "not(a)", "!!a", "(a)", "-a")
    ),
    (
        {"placement": {"weights": {"mesh.pool": 1}}},
        r"placement\.weights\.mesh\.pool.*valid string.*got 1",
        "",
    ),
    (
        {"learner": {"gpus": 2}},
        r"learner\.gpus.*one device, got learner\.gpus 2",
        r"learner\.ranks to the number of devices",
    ),
    (
        {"rollout": {"slices": 5}},
        r"got rollout\.slices 5 with rollout\.group_size 4",
        "ask for fewer",
    ),
    (
        {"rollout": {"prompts_per_step": 3}, "learner": {"ranks": 4}},
        r"3 slices .*prompts_per_step 3 x rollout\.slices 1\), got 4 ranks",
        r"raise rollout\.slices",
    ),
    (
        {"learner": {"placement": "runners", "ranks": 2}},
        r"every runner is a rank, got learner\.ranks 2",
        r"set rollout\.num_runners",
    ),
    (
        {"learner": {"placement": "runners", "gpus": 1}},
        r"no device of its own, got learner\.gpus 1",
        "set it to 0",
    ),
    (
        {"learner": {"sharded": True, "ranks": 2}},
        r"got learner\.sharded true with model\.trainable lora",
        "set it to false",
    ),
    (
        {"learner": {"placement": "runners", "sharded": True}, "model": EXPERTS},
        r"draws with whole weights, got learner\.sharded true",
        r"learner\.placement to own",
    ),
    (
        {"learner": {"placement": "runners"}, "rollout": {"max_lag": 1}},
        r"of two versions, got rollout\.max_lag 1",
        "set it to 0",
    ),
    (
        {"algorithm": {"lag": "importance", "lag_cap": 0.5}},
        r"algorithm\.lag_cap.*greater than or equal to 1.*got 0\.5",
        "",
    ),
    (
        {"algorithm": {"lag": "forget"}},
        r"algorithm\.lag.*'clip' or 'importance'.*got 'forget'",
        "",
    ),
    *(
        (
            {"task": {"kind": kind}},
            rf"needs a section refinement .* got task\.kind {kind}",
            r"add it \(deploy/configs/shapes-srr\.yaml has one\)",
        )
        for kind in ("srr", "mixed")
    ),
    (
        {"evaluation": {"rounds": 2}},
        r"task\.kind rt2i and evaluation\.rounds 2 without one",
        "add it",
    ),
    (
        {"refinement": REFLECTION | {"flow": {"num_points": 3}}},
        r"refinement\.flow\.window\.allowed .* 2 steps",
        r"raise refinement\.flow\.num_points",
    ),
    (
        {"task": {"kind": "mixed"}, "refinement": REFLECTION | {"drafts": {"trained": True}}},
        r"got task\.think true and task\.kind mixed",
        r"needs task\.think true and task\.kind srr",
    ),
    (
        SILENT | {"refinement": REFLECTION | {"drafts": {"trained": True}}},
        r"got task\.think false and task\.kind rt2i",
        r"task\.kind srr",
    ),
    (
        SILENT | {"refinement": REFLECTION | {"format_bonus": 0.5}},
        r"well-formed reflection, got 0\.5 with task\.think false",
        r"set refinement\.format_bonus to 0",
    ),
    (
        {"refinement": {"prompt": "again"}},
        r"must hold \{prompt\} once.* got 'again'",
        "write for example",
    ),
    (
        {"refinement": {"prompt": "{prompt} {prompt}"}},
        r"must hold \{prompt\} once",
        "write for example",
    ),
    (
        {"reward": {"kinds": "semantic", "program": "holistic"}},
        r"kinds semantic needs a program that asks the set's questions .* got holistic",
        r"set reward\.kinds to all",
    ),
    (
        {"watch": {"canary": "shapes:many"}},
        r"shapes:N with N pictures, got 'shapes:many'",
        "write for example",
    ),
    (
        {"training": {"keep_pictures": 0}},
        r"keep_pictures.* got 0",
        "",
    ),
    (
        {"reward": {"program": "no such reward"}},
        r"one of dvreward, .* got 'no such reward'",
        "choose one of them",
    ),
]


def with_sections(**sections: Any) -> RunConfig:
    """As :func:`make_config`, with a task and a flow that stay valid where one key changes."""
    task = {"system_prompt": "think", "height": 32, "width": 32}
    sections["task"] = task | sections.get("task", {})
    return make_config(**sections)


@pytest.mark.parametrize(("sections", "rule", "remedy"), RULES)
def test_an_impossible_combination_is_refused_with_rule_value_and_remedy(
    sections: dict[str, Any], rule: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){rule}.*{remedy}"):
        with_sections(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"decay_steps": 100}},
        {"rollout": {"flow": {"num_points": 4, "window": {"length": 3, "allowed": [0, 3]}}}},
        {"learner": {"ranks": 2, "gpus": 1}, "model": {"path": "x", "trainable": "experts"}},
        {"learner": {"ranks": 6}, "rollout": {"slices": 2, "prompts_per_step": 3}},
        {"learner": {"placement": "runners"}, "rollout": {"num_runners": 3}},
        {"algorithm": {"text": {"kl_weight": 0.1}}},
        SILENT,
        {"algorithm": {"image": {"enabled": False}}},
        {"task": {"kind": "srr"}, "refinement": REFLECTION | {"drafts": {"trained": True}}},
        {"task": {"kind": "mixed"}, "refinement": REFLECTION, "evaluation": {"rounds": 1}},
        SILENT | {"refinement": REFLECTION},
        {"reward": {"kinds": "semantic", "program": "dvreward_binary"}},
        {"reward": {"kinds": "semantic", "program": "my.package:Reward"}},
    ],
)
def test_the_neighbours_of_refused_combinations_are_valid(sections: dict[str, Any]) -> None:
    with_sections(**sections)


@pytest.mark.parametrize(
    ("warmup", "decay", "factors"),
    [
        (0, None, [1.0, 1.0, 1.0, 1.0]),
        (2, None, [0.5, 1.0, 1.0, 1.0]),
        (0, 4, [1.0, 0.75, 0.5, 0.25]),
        (2, 4, [0.5, 0.75, 0.5, 0.25]),
        (4, 2, [0.25, 0.5, 0.0, 0.0]),
    ],
)
def test_rates_rise_and_fall_by_the_lower_of_both_lines(
    warmup: int, decay: int | None, factors: list[float]
) -> None:
    optimizer = make_config(
        optimizer={"warmup_steps": warmup, "decay_steps": decay}, training={"num_steps": 1}
    ).optimizer
    assert [optimizer.rate_factor(index) for index in range(4)] == factors


@pytest.mark.parametrize(
    ("group_size", "share", "minimum"), [(4, 0.5, 2), (4, 0.51, 3), (14, 0.5, 7), (4, 0.1, 2)]
)
def test_a_group_needs_its_share_of_scores_and_never_fewer_than_two(
    group_size: int, share: float, minimum: int
) -> None:
    config = make_config(
        rollout={
            "group_size": group_size,
            "flow": {"num_points": 6, "window": {"length": 3, "allowed": (0, 4)}},
        },
        reward={"min_valid_share": share},
    )
    assert config.min_valid == minimum


def test_a_reflection_prompt_quotes_the_prompt_and_leaves_other_braces_alone() -> None:
    config = make_config(refinement={"prompt": "draw {prompt}, not {that}"})
    assert config.refinement is not None
    assert config.refinement.request("a {prompt} dog") == "draw a {prompt} dog, not {that}"


@pytest.mark.parametrize(
    ("learner", "trainable", "sharded"),
    [
        ({"ranks": 2, "gpus": 1}, "experts", True),
        ({"ranks": 2}, "experts", False),
        ({"ranks": 2, "sharded": True}, "experts", True),
        ({"ranks": 2, "gpus": 1, "sharded": False}, "experts", False),
        ({"ranks": 2, "gpus": 1}, "lora", False),
        ({"gpus": 1, "sharded": True}, "experts", False),
    ],
)
def test_experts_are_shared_out_over_ranks_that_have_a_gpu(
    learner: dict[str, Any], trainable: str, sharded: bool
) -> None:
    config = with_sections(learner=learner, model={"path": "x", "trainable": trainable})
    assert config.sharded == sharded
