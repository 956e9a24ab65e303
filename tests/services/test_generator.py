"""The generator on a tiny BAGEL without Serve, and its route with a fake behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from alphagrpo.errors import (
    BadImage,
    CheckpointError,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    ServiceUnavailable,
)
from alphagrpo.images import decode_base64_image, encode_png_base64
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.state import save_learner
from alphagrpo.models.bagel import random_bagel, save_bagel, tiny_config
from alphagrpo.record.folder import RunFolder
from alphagrpo.types import Prompt, Question, Score, Verdict
from miniature.policy.pretrain import special_ids
from miniature.tokenizer import build_tokenizer
from services.gateway.app import create_app
from services.generator.models import DoneEvent, GenerateRequest, RoundEvent, StageEvent
from services.generator.policy_queue import open_queue, saved_weights
from services.generator.service import GenerationService
from services.settings import GatewaySettings, GeneratorSettings
from tests.fakes import make_config
from tests.services.test_gateway import FakeServices
from tests.unit.rollout.test_refining import REFINEMENT

QUESTION = Question(id="s0", text="is it red ?", kind="semantic", tag="Attribute")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run config over a tiny model, and the model."""
    folder = tmp_path_factory.mktemp("generator")
    tokenizer, base = build_tokenizer(), tiny_config()
    shape = tiny_config(
        llm=replace(base.llm, vocab_size=len(tokenizer)), special=special_ids(tokenizer)
    )
    model = random_bagel(shape, 0)
    save_bagel(model, folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config = make_config(
        model={"path": str(folder / "model"), "trainable": "experts", "device": "cpu"},
        task={"system_prompt": "think first", "max_think_tokens": 4, "height": 48, "width": 48},
        evaluation={"num_points": 3},
        refinement=REFINEMENT,
    )
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return {"config": config, "path": path, "model": model, "folder": folder}


def settings(run: Mapping[str, Any], **changes: Any) -> GeneratorSettings:
    return GeneratorSettings(config=str(run["path"]), **changes)


class FakeScorer:
    """Rewards in the order of asking."""

    def __init__(self, *rewards: float, error: Exception | None = None) -> None:
        self.rewards, self.error = list(rewards), error

    async def __call__(self, prompt: Prompt, pixels: np.ndarray) -> Score:
        if self.error:
            raise self.error
        value = self.rewards.pop(0)
        verdict = Verdict(question_id="s0", p_yes=value, judge="fake@1")
        return Score(
            semantic=value,
            quality=value,
            value=value,
            verdicts=(verdict,),
            questions=(QUESTION,),
        )


@pytest.fixture
def queue(run: dict[str, Any]) -> Iterator[Any]:
    policy_queue = open_queue(settings(run))
    yield policy_queue
    policy_queue.close()


async def events_of(service: GenerationService, **fields: Any) -> list[Any]:
    return [event async for event in service.events(GenerateRequest(**fields))]


async def test_rounds_are_told_as_they_happen_and_the_better_is_kept(run, queue) -> None:
    service = GenerationService(queue, settings(run), FakeScorer(0.5, 0.9, 0.2))
    events = await events_of(service, prompt="a red circle", seed=3, rounds=2)
    kinds = [f"{e.stage}{e.round}" if isinstance(e, StageEvent) else f"{e.event}" for e in events]
    assert kinds == [
        "drawing0", "judging0", "round", "drawing1", "judging1", "round",
        "drawing2", "judging2", "round", "done",
    ]  # fmt: skip
    rounds = [e for e in events if isinstance(e, RoundEvent)]
    assert [r.kept for r in rounds] == [True, True, False]
    assert [r.refined_from for r in rounds] == [None, 0, 1]
    assert rounds[1].score.verdicts[0].question == "is it red ?"
    assert isinstance(events[-1], DoneEvent)
    assert events[-1].kept_round == 1
    for one in rounds:
        assert decode_base64_image(one.picture).shape == (48, 48, 3)
        assert one.weights.version == -1


async def test_one_picture_needs_no_judge_and_the_same_seed_gives_it_again(run, queue) -> None:
    service = GenerationService(queue, settings(run), FakeScorer(error=ServiceUnavailable("gone")))
    first, again, other = [
        (await events_of(service, prompt="a red circle", seed=seed))[1].picture
        for seed in (1, 1, 2)
    ]
    assert first == again != other


async def test_a_lost_judge_and_a_late_answer_end_the_request(run, queue) -> None:
    gone = GenerationService(
        queue, settings(run), FakeScorer(error=ServiceUnavailable("gone; wait"))
    )
    with pytest.raises(ServiceUnavailable):
        await events_of(gone, prompt="a red circle", rounds=1)
    late = GenerationService(queue, settings(run, deadline_s=0.0001), FakeScorer())
    with pytest.raises(DeadlineExceeded, match="fewer rounds"):
        await events_of(late, prompt="a red circle")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"prompt": "  "}, ConfigError, "got 0"),
        ({"prompt": "x" * 41}, ConfigError, "got 41"),
        ({"prompt": "x", "rounds": 3}, ConfigError, "got 3"),
        ({"prompt": "x", "image": "no base64"}, BadImage, "base64"),
        (
            {"prompt": "x", "image": encode_png_base64(np.zeros((16, 48, 3), np.uint8))},
            BadImage,
            "48 x 48",
        ),
        (
            {
                "prompt": "x",
                "rounds": 1,
                "image": encode_png_base64(np.zeros((48, 48, 3), np.uint8)),
            },
            ConfigError,
            "no prompt to refine",
        ),
    ],
)
async def test_requests_out_of_bounds_are_refused_before_drawing(
    run, queue, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    service = GenerationService(queue, settings(run, max_prompt_chars=40), FakeScorer())
    with pytest.raises(error, match=words):
        await events_of(service, **fields)


async def test_an_edit_begins_from_the_picture_it_is_given(run, queue) -> None:
    service = GenerationService(queue, settings(run), FakeScorer())
    pictures = [
        (
            await events_of(
                service,
                prompt="make it red",
                image=encode_png_base64(np.full((48, 48, 3), shade, np.uint8)),
            )
        )[1].picture
        for shade in (0, 255)
    ]
    assert pictures[0] != pictures[1]


def write_checkpoint(run: Mapping[str, Any], folder: Path, step: int) -> None:
    """A checkpoint of a learner whose weights differ with the step."""
    import torch

    learner = GRPOLearner(run["model"], run["config"])
    with torch.no_grad():
        for parameter in learner.parameters.values():
            parameter.add_(0.01)
    for _ in range(step):
        learner._changed = True
        learner.export()
    with RunFolder(folder).checkpoint(step) as path:
        save_learner(learner, path / "learner")


async def test_newer_weights_are_followed_without_a_restart(run, tmp_path) -> None:
    folder = tmp_path / "runs" / "r"
    (folder / "checkpoints").mkdir(parents=True)
    queue = open_queue(settings(run, weights=str(folder)))
    service = GenerationService(queue, settings(run), FakeScorer())
    before = (await events_of(service, prompt="a red circle"))[1]
    assert not await queue.refresh(), "a run without a checkpoint has nothing to follow yet"
    write_checkpoint(run, folder, 3)
    assert await queue.refresh()
    assert not await queue.refresh(), "they are the newest already"
    after = (await events_of(service, prompt="a red circle"))[1]
    assert (before.weights.version, after.weights.version) == (-1, 2)
    assert after.weights.source.endswith("step-000003/learner")
    assert before.picture != after.picture
    # Damaged ones are left alone, and say so in the log only.
    write_checkpoint(run, folder, 4)
    tensors = folder / "checkpoints" / "step-000004" / "learner" / "learner.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    assert not await queue.refresh()
    again = (await events_of(service, prompt="a red circle"))[1]
    assert (again.weights, again.picture) == (after.weights, after.picture)
    queue.close()


def test_weights_are_a_run_or_a_checkpoint(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        saved_weights(tmp_path)


# -- the route


class FakeGenerator:
    """Plays the events of a one-round request, or fails before or after the first."""

    def __init__(self, early: Exception | None = None, late: Exception | None = None) -> None:
        self.early, self.late = early, late
        self.requests: list[Mapping[str, Any]] = []

    async def events(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        self.requests.append(request)
        if self.early:
            raise self.early
        yield {"event": "stage", "stage": "drawing", "round": 0}
        if self.late:
            raise self.late
        yield {
            "event": "round", "round": 0, "seed": 1, "thought": "t", "picture": "", "score": None,
            "kept": True, "refined_from": None, "weights": {"version": 7, "source": "runs/x"},
        }  # fmt: skip
        yield {"event": "done", "kept_round": 0, "seconds": 0.5}

    async def info(self) -> Mapping[str, Any]:
        return {}


def client(generator: FakeGenerator | None) -> httpx.AsyncClient:
    services = FakeServices()
    app = create_app(services, services, GatewaySettings(), generator)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway")


def parse_sse(text: str) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in text.strip().split("\n\n"):
        event, data = block.split("\n")
        events.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


async def test_one_answer_holds_all_rounds_and_says_who_drew_them() -> None:
    async with client(FakeGenerator()) as http:
        answer = await http.post("/v1/generate", json={"prompt": "a fox", "seed": 1})
    assert answer.status_code == 200
    body = answer.json()
    assert body["kept_round"] == 0
    assert body["rounds"][0]["weights"] == {"version": 7, "source": "runs/x"}


async def test_a_stream_gives_events_and_a_late_error_is_its_last() -> None:
    request = {"prompt": "a fox", "stream": True}
    async with client(FakeGenerator()) as http:
        answer = await http.post("/v1/generate", json=request)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in parse_sse(answer.text)] == ["stage", "round", "done"]
    async with client(FakeGenerator(late=DeadlineExceeded("late; ask for less"))) as http:
        answer = await http.post("/v1/generate", json=request)
    events = parse_sse(answer.text)
    assert [name for name, _ in events] == ["stage", "error"]
    assert events[-1][1]["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("at most 2 rounds, got 9; ask for fewer"), 422),
        (BadImage("no picture; send another"), 400),
        (Overloaded("full; wait"), 429),
        (ServiceUnavailable("gone; wait"), 503),
    ],
)
async def test_early_errors_are_statuses(stream: bool, error: Exception, status: int) -> None:
    async with client(FakeGenerator(early=error)) as http:
        answer = await http.post("/v1/generate", json={"prompt": "a fox", "stream": stream})
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == str(error)


async def test_bad_fields_and_a_gateway_without_generator_are_told_clearly() -> None:
    async with client(FakeGenerator()) as http:
        for bad in ({"prompt": ""}, {"prompt": "x", "seed": -1}, {"prompt": "x", "sed": 1}):
            assert (await http.post("/v1/generate", json=bad)).status_code == 422
    async with client(None) as http:
        answer = await http.post("/v1/generate", json={"prompt": "a fox"})
    assert answer.status_code == 422
    assert "generator_app" in answer.json()["error"]["message"]
