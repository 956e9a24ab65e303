from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from alphagrpo.judging.questions import QUALITY_TAGS, SEMANTIC_TAGS
from alphagrpo.shapes.language import thought
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.splits import prompts, spec_of
from miniature.question_json import questions_to_json
from miniature.tokenizer import SPECIAL_TOKENS, build_tokenizer, world_words


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(["<extra>"])


def test_every_word_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    words = world_words()
    assert len(words) > 100
    assert [word for word in words if len(tokenizer.encode(f" {word}")) != 1] == []
    assert [tag for tag in (*SEMANTIC_TAGS, *QUALITY_TAGS) if len(tokenizer.encode(tag)) != 1] == []
    for word in ("yes", "no"):
        assert len(tokenizer.encode(word)) == 1


def test_special_tokens_have_fixed_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    assert tokenizer.pad_token_id == 0
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.convert_tokens_to_ids("<extra>") == len(tokenizer) - 1
    assert len(tokenizer) <= 800


def test_think_tags_are_single_and_decoded(tokenizer: PreTrainedTokenizerFast) -> None:
    for prompt in prompts("train", "thought", 50, seed=0):
        text = thought(spec_of(prompt))
        ids = tokenizer.encode(text)
        assert ids[0] == tokenizer.convert_tokens_to_ids("<think>")
        assert ids[-1] == tokenizer.convert_tokens_to_ids("</think>")
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_question_sets_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    for prompt in prompts("train", "plain", 300, seed=1):
        text = questions_to_json(reference_questions(spec_of(prompt)))
        ids = tokenizer.encode(text)
        assert len(ids) < 220
        assert tokenizer.decode(ids) == text


def test_any_text_survives(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Ein Kreis für Zoë, 3 × größer\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_building_twice_gives_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    again = build_tokenizer()
    shared = dict(tokenizer.get_vocab())
    del shared["<extra>"]
    assert again.get_vocab() == shared
