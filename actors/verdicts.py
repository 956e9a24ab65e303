"""The verifier as runners make it: over the verdicts that the run has kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.parts import Part
from alphagrpo.judging.kept import KeptVerdicts
from alphagrpo.record.verdicts import KEPT_VERDICTS

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig


def keeping(verifier: Part, config: RunConfig) -> Part:
    """The part that makes ``verifier`` and gives it the memory of the run's folder.

    The folder is named as this process finds it: actors work in others.
    """
    path = config.folder.absolute() / KEPT_VERDICTS
    return Part("actors.verdicts:make_keeping", {"verifier": verifier.to_json(), "path": str(path)})


def make_keeping(*, verifier: Mapping[str, Any], path: str) -> KeptVerdicts:
    """A verifier over what is kept at ``path``; the arguments are JSON values."""
    return KeptVerdicts(Part.from_json(verifier).make(), Path(path))
