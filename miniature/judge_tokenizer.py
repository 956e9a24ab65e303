"""The judges' side of the world's tokenizer: Idefics3's special tokens and the answer tokens."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from alphagrpo.errors import ConfigError
from miniature.tokenizer import IMAGE, build_tokenizer
from miniature.verifier.texts import instructions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FENCE, GLOBAL = "<fake_token_around_image>", "<global-img>"
IDEFICS_TOKENS = (FENCE, GLOBAL, "<end_of_utterance>")
"""What Idefics3's processor asks for beside ``<image>``."""
YES, NO = " yes", " no"
"""The verifier's answers, as they follow a question."""

__all__ = ["FENCE", "GLOBAL", "IMAGE", "NO", "YES", "judge_tokenizer", "single_id",
           "verifier_tokenizer"]  # fmt: skip


@cache
def judge_tokenizer() -> PreTrainedTokenizerFast:
    """The world's tokenizer with the special tokens of both judges; built once, shared after."""
    return build_tokenizer(IDEFICS_TOKENS)


@cache
def verifier_tokenizer() -> PreTrainedTokenizerFast:
    """The judges' tokenizer with the fixed instructions of the verifier at its end.

    Their words are not the world's, so an instruction would else be 13 to 28 fragments before the
    first word that matters. All other tokens keep their ids.
    """
    from tokenizers import AddedToken

    tokenizer = build_tokenizer(IDEFICS_TOKENS)
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in instructions()]
    )
    return tokenizer


def single_id(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """The id of a text that is one token. Raises ConfigError where it is none or several."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ConfigError(
            f"an answer is one token of the vocabulary, got {text!r} as {len(ids)}; "
            "train the tokenizer on texts that contain it"
        )
    return int(ids[0])
