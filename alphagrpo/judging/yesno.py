"""Exact yes and no: which token ids spell them, and P(yes) from their log-probabilities.

DVReward, section 3.2: s = P(yes) / (P(yes) + P(no)) at the first answer token, summed over
spellings. The engine scores these ids by number, so that neither side can fall out of a top-k list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from alphagrpo.errors import ConfigError, ServiceError
from alphagrpo.judging.engine import Tokenizer

YES_SPELLINGS = ("yes", "Yes", "YES", " yes", " Yes", " YES")
NO_SPELLINGS = ("no", "No", "NO", " no", " No", " NO")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTokens:
    """Token ids that spell the two answers; the sets are disjoint and neither is empty."""

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Both, yes first: what an engine scores."""
        return self.yes + self.no


def answer_tokens(tokenizer: Tokenizer) -> AnswerTokens:
    """Ids of every spelling that is one token, in case and with or without a leading space.

    Raises ConfigError for a tokenizer with no one-token spelling of either answer.
    """
    tokens = AnswerTokens(
        yes=_single(tokenizer, YES_SPELLINGS), no=_single(tokenizer, NO_SPELLINGS)
    )
    if not tokens.yes or not tokens.no or set(tokens.yes) & set(tokens.no):
        raise ConfigError(
            "a verifier's tokenizer has one-token spellings of yes and of no that differ, got ids "
            f"{tokens.yes} and {tokens.no}; serve another model"
        )
    return tokens


def _single(tokenizer: Tokenizer, spellings: Iterable[str]) -> tuple[int, ...]:
    encoded = (tokenizer.encode(text, add_special_tokens=False) for text in spellings)
    return tuple(dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1))


def p_yes(log_probs: Mapping[int, float], tokens: AnswerTokens) -> float:
    """P(yes) / (P(yes) + P(no)) from log-probabilities by token id; in [0, 1].

    Worked out as a logistic of the difference of two log-sums, so that answers far from certain
    tokens, of probability 1e-30 say, lose no precision. Raises ServiceError, and never gives 0,
    where an id is missing, a value is NaN or above 0, or both answers have probability 0.
    """
    missing = [token for token in tokens.all if token not in log_probs]
    if missing:
        raise ServiceError(
            f"the engine must score every yes and no token of the request, ids {missing} are "
            "missing; its version may not support logprob_token_ids"
        )
    yes = _log_sum([log_probs[token] for token in tokens.yes])
    no = _log_sum([log_probs[token] for token in tokens.no])
    if yes == no == -math.inf:
        raise ServiceError(
            "yes or no must be possible at the answer, got probability 0 for both; the prompt "
            "template does not fit the model"
        )
    if no == -math.inf or yes == -math.inf:
        return 1.0 if no == -math.inf else 0.0
    return _logistic(yes - no)


def _log_sum(values: list[float]) -> float:
    """log of the sum of exponentials; -inf stands for probability 0."""
    if any(math.isnan(value) or value > 1e-3 for value in values):
        raise ServiceError(
            f"log-probabilities are numbers up to 0, got {values}; the model's weights or the "
            "engine's arithmetic are broken"
        )
    top = max(values)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(value - top) for value in values))


def _logistic(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))
