"""How a question or an instruction becomes prompt text, for models with and without a chat form."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any, Literal, get_args

from alphagrpo.errors import ConfigError
from alphagrpo.judging.engine import Tokenizer
from alphagrpo.types import QuestionForm

TemplateName = Literal["auto", "bare", "chat"]
"""``bare``: text alone, for the miniature models; ``chat``: the tokenizer's own chat template;
``auto``: ``chat`` where the tokenizer has one."""

IMAGE = "<image>"
"""Idefics3's picture placeholder, used by the bare template."""

AUDITOR = (
    "You check pictures against questions. Look only at what is visible. Reply with the single "
    "word yes or no, in lower case and without punctuation. If what a question asks about cannot "
    "be seen in the picture, reply no."
)

GRADER = (
    "You grade pictures. Look only at what is visible, use the whole scale the question names, and "
    "give its top only where nothing is left to wish for. Reply with one whole number and nothing "
    "else."
)


def resolve(template: TemplateName, tokenizer: Tokenizer) -> Literal["bare", "chat"]:
    """``auto`` decided. Raises ConfigError for ``chat`` without a chat template."""
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if template == "chat" and not has_chat:
        raise ConfigError(
            "template 'chat' needs a tokenizer with a chat template, this one has none; use 'bare'"
        )
    if template == "auto":
        return "chat" if has_chat else "bare"
    return template


def verification_prompt(
    question: str, template: TemplateName, tokenizer: Tokenizer, form: QuestionForm = "yes_no"
) -> str:
    """One question about one picture. The picture comes first, so that all questions of a form
    about it share a prefix that the engine computes once.
    """
    if resolve(template, tokenizer) == "bare":
        return IMAGE + question
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": question}]
    return _chat(tokenizer, GRADER if form == "grade" else AUDITOR, content)


def instruction_prompt(
    text: str, template: TemplateName, tokenizer: Tokenizer, *, system: str
) -> str:
    """A text instruction. Bare models have learnt one task: they get ``text`` and a line end."""
    if resolve(template, tokenizer) == "bare":
        return text + "\n"
    return _chat(tokenizer, system, text)


def _chat(tokenizer: Tokenizer, system: str, user: Any) -> str:
    conversation = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    if not isinstance(user, str):
        # Vision templates walk over parts; a plain string beside them is refused by some.
        conversation[0]["content"] = [{"type": "text", "text": system}]
    return str(
        tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    )


def template_revision(template: TemplateName, tokenizer: Tokenizer) -> str:
    """4 hex digits over all that decides a verification prompt: part of the judge's revision."""
    forms = get_args(QuestionForm)
    probes = [verification_prompt("?", template, tokenizer, form) for form in forms]
    # Once each: bare models read the same prompt for every form.
    text = "\n".join(inspect.cleandoc(probe) for probe in dict.fromkeys(probes))
    return hashlib.sha256(text.encode()).hexdigest()[:4]
