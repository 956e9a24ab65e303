"""The question store: keeping, looking up, editing by hand."""

from __future__ import annotations

import json

import pytest

from alphagrpo.errors import ConfigError, NoQuestions
from alphagrpo.judging.store import QuestionStore
from alphagrpo.types import Question, QuestionSet

REVISION = "single@4f2c91ab"
QUESTIONS = (
    Question(id="s0", text="is there a fox ?", kind="semantic", tag="Existence"),
    Question(id="q0", text="is it drawn well ?", kind="quality", tag="Aesthetics"),
)


def _set(prompt: str, revision: str = REVISION) -> QuestionSet:
    return QuestionSet(prompt=prompt, questions=QUESTIONS, revision=revision)


def test_what_is_kept_is_looked_up_by_prompt_and_revision(tmp_path):
    store = QuestionStore(tmp_path / "store")
    assert store.get("a fox", REVISION) is None
    store.put(_set("a fox"))
    assert store.get("a fox", REVISION) == _set("a fox")
    assert store.get("a fox", "dsg@4f2c91ab") is None
    assert store.get("two foxes", REVISION) is None


def test_each_prompt_program_and_model_has_a_set_of_its_own(tmp_path):
    store = QuestionStore(tmp_path)
    sets = [
        _set(prompt, f"{program}@{model}")
        for prompt in ("a fox", "single@4f2c91ab")
        for program in ("single", "dsg")
        for model in ("4f2c91ab", "00000001")
    ]
    paths = {store.put(questions) for questions in sets}
    assert len(paths) == len(sets) == len(list(tmp_path.iterdir()))
    assert all(store.get(questions.prompt, questions.revision) == questions for questions in sets)


def test_a_newer_set_takes_the_place_of_an_older_one(tmp_path):
    store = QuestionStore(tmp_path)
    older = _set("a fox")
    newer = QuestionSet(prompt="a fox", questions=QUESTIONS[::-1], revision=REVISION)
    assert store.put(older) == store.put(newer)
    assert store.get("a fox", REVISION) == newer


def test_no_partial_file_is_left(tmp_path):
    store = QuestionStore(tmp_path)
    path = store.put(_set("ein Fuchs im Schnee, 狐"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert "狐" in path.read_text(encoding="utf-8")


def test_a_person_may_edit_a_set(tmp_path):
    store = QuestionStore(tmp_path)
    path = store.put(_set("a fox"))
    record = json.loads(path.read_text())
    record["questions"][0]["text"] = "is there a red fox ?"
    path.write_text(json.dumps(record))
    kept = store.get("a fox", REVISION)
    assert kept is not None
    assert kept.questions[0].text == "is there a red fox ?"


def _edited(path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("questions"), "questions"),
        (lambda record: record["questions"].pop(1), "semantic and quality"),
        (lambda record: record["questions"][0].update(kind="odd"), "odd"),
        (lambda record: record.update(prompt="a dog"), "must be about"),
        (lambda record: record.update(revision="x@y"), "must be about"),
    ],
)
def test_an_edit_into_nonsense_is_named(tmp_path, change, message):
    store = QuestionStore(tmp_path)
    path = store.put(_set("a fox"))
    _edited(path, change)
    with pytest.raises(ConfigError, match=message) as caught:
        store.get("a fox", REVISION)
    assert path.name in str(caught.value)


def test_text_that_is_no_json_or_no_utf8_is_named(tmp_path):
    store = QuestionStore(tmp_path)
    path = store.put(_set("a fox"))
    path.write_text("{")
    with pytest.raises(ConfigError, match="fix the file"):
        store.get("a fox", REVISION)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        store.get("a fox", REVISION)


def test_an_unusable_set_is_not_kept(tmp_path):
    store = QuestionStore(tmp_path)
    with pytest.raises(NoQuestions):
        store.put(QuestionSet(prompt="a fox", questions=(), revision=REVISION))
    assert list(tmp_path.iterdir()) == []
