"""What prompts about one picture share: the part up to the picture's end, expanded once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.engine_inputs import Head

FENCE, TAG, IMAGE = 90, 91, 5


def expand(ids: list[int], replacement: list[int]) -> dict[str, Any]:
    """What vLLM makes of token ids with one picture: its token replaced, and where."""
    at = ids.index(IMAGE)
    place = SimpleNamespace(offset=at, length=len(replacement))
    return {
        "prompt_token_ids": ids[:at] + replacement + ids[at + 1 :],
        "mm_placeholders": {"image": [place]},
    }


REPLACEMENTS = {
    "with a fence": [FENCE, TAG, *[IMAGE] * 9, FENCE],
    "the token repeated": [IMAGE] * 4,
    "once": [IMAGE],
}
PROMPTS = [[1, 2, IMAGE, 7, 8], [1, 2, IMAGE, 8], [1, 2, IMAGE], [1, 2, IMAGE, IMAGE + 1, 7, 8]]


@pytest.mark.parametrize("replacement", REPLACEMENTS.values(), ids=REPLACEMENTS)
@pytest.mark.parametrize("first", PROMPTS)
def test_other_prompts_get_what_vllm_would_make_of_them(first, replacement) -> None:
    head = Head.of(first, expand(first, replacement))
    assert head.plain == [1, 2, IMAGE]
    for other in PROMPTS:
        assert head.continued(other) == expand(other, replacement)["prompt_token_ids"]


@pytest.mark.parametrize("replacement", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_a_prompt_with_another_head_is_not_guessed(replacement) -> None:
    first = [1, IMAGE, 8]
    head = Head.of(first, expand(first, replacement))
    for other in ([1, 3, IMAGE, 8], [3, IMAGE, 8], [1], [IMAGE, 1, 8]):
        assert head.continued(other) is None


def test_a_tail_that_looks_like_the_picture_stays_a_tail() -> None:
    first = [1, IMAGE, FENCE, 8]
    head = Head.of(first, expand(first, [FENCE, IMAGE, IMAGE, FENCE]))
    assert head == ([1, IMAGE], [1, FENCE, IMAGE, IMAGE, FENCE])
    assert head.continued([1, IMAGE, 8]) == [1, FENCE, IMAGE, IMAGE, FENCE, 8]
