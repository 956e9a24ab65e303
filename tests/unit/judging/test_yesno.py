"""Exact yes and no tokens, and P(yes) from log-probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphagrpo.errors import ConfigError, ServiceError
from alphagrpo.judging.yesno import AnswerTokens, answer_tokens, p_yes
from tests.unit.judging.fake_engine import FakeTokenizer

TOKENS = AnswerTokens(yes=(0, 1), no=(2,))


def test_all_one_token_spellings_are_found():
    tokens = answer_tokens(FakeTokenizer())
    assert tokens.yes == (0, 4, 1)
    assert tokens.no == (2, 5, 3)


@pytest.mark.parametrize("words", [("yes", " yes"), ("no",), ()])
def test_a_tokenizer_without_both_answers_is_refused(words):
    with pytest.raises(ConfigError, match="yes and of no"):
        answer_tokens(FakeTokenizer(words=words))


def test_spellings_are_summed():
    value = p_yes({0: math.log(0.2), 1: math.log(0.1), 2: math.log(0.1)}, TOKENS)
    assert value == pytest.approx(0.75)


@given(shift=st.floats(-700, 0), gap=st.floats(-40, 40))
def test_only_the_difference_counts_even_for_tiny_probabilities(shift, gap):
    low, high = shift - abs(gap), shift
    yes, no = (high, low) if gap > 0 else (low, high)
    value = p_yes({0: yes, 1: -math.inf, 2: no}, TOKENS)
    assert value == pytest.approx(1 / (1 + math.exp(no - yes)), rel=1e-9)


def test_an_impossible_side_decides():
    assert p_yes({0: -3.0, 1: -math.inf, 2: -math.inf}, TOKENS) == 1.0
    assert p_yes({0: -math.inf, 1: -math.inf, 2: -3.0}, TOKENS) == 0.0


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        ({0: -1.0, 1: -1.0}, "missing"),
        ({}, "missing"),
        ({0: math.nan, 1: -1.0, 2: -1.0}, "broken"),
        ({0: 5.0, 1: -1.0, 2: -1.0}, "broken"),
        ({0: -math.inf, 1: -math.inf, 2: -math.inf}, "probability 0 for both"),
    ],
)
def test_an_absent_answer_is_an_error_and_never_zero(log_probs, message):
    with pytest.raises(ServiceError, match=message):
        p_yes(log_probs, TOKENS)
