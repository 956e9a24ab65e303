"""Some pictures in one call: each has its verdicts or its own error."""

from __future__ import annotations

from typing import Any

import pytest

from alphagrpo.errors import BadImage
from services.verifier import VerifierDeployment


def replica(answers: dict[str, Any]) -> Any:
    """A replica without an engine that answers a picture with what stands under its name."""
    kind = VerifierDeployment.func_or_class
    made = kind.__new__(kind)

    async def verify(pixels: str, questions: str, run: str = "") -> Any:
        if isinstance(answers[pixels], Exception):
            raise answers[pixels]
        return answers[pixels], questions, run

    made.verify = verify
    return made


async def test_a_picture_without_verdicts_takes_none_from_the_others() -> None:
    bad = BadImage("grey")
    asked = [("a", "q"), ("b", "r"), ("c", "s")]
    answers = await replica({"a": 1, "b": bad, "c": 3}).verify_all(asked, run="own")
    assert answers == [(1, "q", "own"), bad, (3, "s", "own")]


async def test_what_is_no_error_of_the_mesh_fails_the_call() -> None:
    with pytest.raises(KeyError):
        await replica({"a": 1, "b": KeyError("b")}).verify_all([("a", "q"), ("b", "q")])
