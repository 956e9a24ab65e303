"""Prompt texts of both kinds of model, and the revision that follows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.judging.templates import (
    AUDITOR,
    GRADER,
    IMAGE,
    instruction_prompt,
    resolve,
    template_revision,
    verification_prompt,
)
from tests.unit.judging.fake_engine import FakeTokenizer

BARE, CHAT = FakeTokenizer(), FakeTokenizer(chat_template="a template")


class FakeShoutingTokenizer(FakeTokenizer):
    """As a tokenizer whose chat template was changed."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        return super().apply_chat_template(conversation, **kwargs).upper()


def test_auto_follows_the_tokenizer_and_bare_is_always_possible() -> None:
    assert resolve("auto", BARE) == "bare"
    assert resolve("auto", CHAT) == "chat"
    assert resolve("bare", CHAT) == "bare"
    with pytest.raises(ConfigError, match="use 'bare'"):
        resolve("chat", BARE)


def test_a_bare_prompt_is_the_picture_and_the_question_for_every_form() -> None:
    assert verification_prompt("is it red ?", "auto", BARE) == f"{IMAGE}is it red ?"
    assert verification_prompt("how red ?", "auto", BARE, "grade") == f"{IMAGE}how red ?"


@pytest.mark.parametrize(("form", "system"), [("yes_no", AUDITOR), ("grade", GRADER)])
def test_a_chat_prompt_has_the_instructions_of_its_form(form: Any, system: str) -> None:
    first, second = json.loads(verification_prompt("is it red ?", "auto", CHAT, form))
    assert first == {"role": "system", "content": [{"type": "text", "text": system}]}
    assert second["role"] == "user"
    assert second["content"] == [{"type": "image"}, {"type": "text", "text": "is it red ?"}]


def test_instructions_are_the_text_alone_for_models_of_one_task() -> None:
    assert instruction_prompt("a fox", "auto", BARE, system="List facts.") == "a fox\n"
    conversation = json.loads(instruction_prompt("a fox", "auto", CHAT, system="List facts."))
    assert [(turn["role"], turn["content"]) for turn in conversation] == [
        ("system", "List facts."),
        ("user", "a fox"),
    ]


def test_the_revision_follows_what_a_judge_reads() -> None:
    revisions = [
        template_revision("bare", BARE),
        template_revision("chat", CHAT),
        template_revision("chat", FakeShoutingTokenizer(chat_template="another")),
    ]
    assert len(set(revisions)) == 3
    assert template_revision("bare", CHAT) == revisions[0]
    assert all(len(revision) == 4 for revision in revisions)


def test_changed_instructions_change_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    before = template_revision("chat", CHAT)
    for name in ("AUDITOR", "GRADER"):
        with monkeypatch.context() as patch:
            patch.setattr(f"alphagrpo.judging.templates.{name}", "Be kind.")
            assert template_revision("chat", CHAT) != before
