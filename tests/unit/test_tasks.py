"""What is done with a prompt, and which trajectories a run trains on."""

from __future__ import annotations

from typing import Any

import pytest

from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError
from alphagrpo.tasks import refinement_of, task_of, trained_tasks
from tests.fakes import make_config


def config_of(kind: str, share: float = 0.5, **drafts: Any) -> RunConfig:
    flow = {"num_points": 6, "window": {"length": 2, "allowed": (0, 4)}}
    refinement = {"prompt": "{prompt}", "share": share, "flow": flow, "drafts": drafts}
    return make_config(task={"kind": kind}, refinement=refinement)


def test_a_mixed_run_refines_its_share_by_seed_prompt_and_visit() -> None:
    def tasks(config: RunConfig, visit: int = 0) -> list[str]:
        return [task_of(config, f"p{i}", visit) for i in range(500)]

    assert 0.05 < tasks(config_of("mixed", 0.1)).count("srr") / 500 < 0.15
    assert tasks(config_of("mixed", 0.0)).count("srr") == 0
    assert tasks(config_of("mixed", 1.0)).count("rt2i") == 0
    assert tasks(config_of("mixed")) != tasks(config_of("mixed"), visit=1)
    other_seed = config_of("mixed").model_copy(update={"seed": 7})
    assert tasks(config_of("mixed")) != tasks(other_seed)


def test_a_run_of_one_task_does_nothing_else() -> None:
    assert {task_of(config_of("srr", share=0.0), f"p{i}", 0) for i in range(20)} == {"srr"}
    assert {task_of(config_of("rt2i", share=1.0), f"p{i}", 0) for i in range(20)} == {"rt2i"}


@pytest.mark.parametrize(
    ("kind", "drafts", "tasks"),
    [
        ("rt2i", {}, ("rt2i",)),
        ("srr", {}, ("srr",)),
        ("srr", {"trained": True}, ("rt2i", "srr")),
        ("mixed", {}, ("rt2i", "srr")),
    ],
)
def test_trained_drafts_make_a_run_one_of_both_tasks(
    kind: str, drafts: dict[str, Any], tasks: tuple[str, ...]
) -> None:
    assert trained_tasks(config_of(kind, **drafts)) == tasks


def test_refining_needs_its_section() -> None:
    assert refinement_of(config_of("srr")).prompt == "{prompt}"
    with pytest.raises(ConfigError, match="section refinement, the config of fake"):
        refinement_of(make_config())
