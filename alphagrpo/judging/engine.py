"""What the judging programs need of a model server, and a model's revision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alphagrpo.errors import CheckpointError
from alphagrpo.tensor_files import check_tensor_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WHOLE_FILE_BYTES = 256 << 20
_EDGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which model an engine serves.

    Example: ``ModelInfo(name="verifier", revision="4f2c91ab")``
    """

    name: str
    """Last part of the model's folder or hub name."""
    revision: str
    """Hash of the model's files, see :func:`folder_revision`, or the hub's commit."""

    @property
    def tag(self) -> str:
        """``<name>@<revision>``."""
        return f"{self.name}@{self.revision}"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that judging uses."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of ``text``."""
        ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """The prompt text of a conversation."""
        ...


class Engine(Protocol):
    """A served model: text, and pictures if it is a vision model."""

    @property
    def model(self) -> ModelInfo:
        """Name and revision of what is served."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The served model's own tokenizer."""
        ...

    async def generate(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        schema: Mapping[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        pixels: NDArray[np.uint8] | None = None,
        image_key: str | None = None,
    ) -> str:
        """Text after ``prompt``; with ``schema`` (JSON schema) it is JSON of that form, with
        ``choices`` one of these strings, whole.

        ``pixels`` and ``image_key`` as in :meth:`score_tokens`; neither for text alone. Raises
        ServiceUnavailable where the engine is dead, ServiceError where none of the choices came.
        """
        ...

    async def score_tokens(
        self,
        prompts: Sequence[str],
        token_ids: Sequence[int],
        *,
        pixels: NDArray[np.uint8],
        image_key: str,
    ) -> list[Mapping[int, float]]:
        """Log-probability of each of ``token_ids`` as the first token after each of ``prompts``.

        One batch about one picture: ``pixels`` [H, W, 3] stands where a prompt has its image
        placeholder, and is prepared and encoded once; ``image_key`` names its content, so that it
        is not prepared again for a later batch. All are answered, in order, or the first failure
        ends them all. Raises ServiceUnavailable where the engine is dead, ServiceError for a
        prompt that it refuses.
        """
        ...

    async def check_health(self) -> None:
        """Raises ServiceUnavailable where the engine can answer nothing any more."""
        ...


def folder_revision(folder: Path) -> str:
    """8 hex digits over a model folder's weights, tokenizer and configs.

    Files up to 256 MiB are hashed whole, larger ones by size, first and last MiB: the first holds
    every tensor's name, shape and offset. Raises as :func:`check_model_folder`.
    """
    weights = check_model_folder(folder)
    digest = hashlib.sha256()
    for path in sorted([*weights, *folder.glob("*.json"), *folder.glob("*.jinja")]):
        digest.update(path.name.encode())
        _hash_file(path, digest)
    return digest.hexdigest()[:8]


def check_model_folder(folder: Path) -> list[Path]:
    """The weight files of a model folder; reads headers only, so it is quick for any size.

    Raises CheckpointError for a folder without config or weights, and for truncated weights.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise CheckpointError(
            f"a served model is a folder with config.json and *.safetensors, got {folder}; "
            "train or download the model, or fix the path in the Serve config"
        )
    for path in weights:
        check_tensor_file(path, owner="a served model")
    return weights


def _hash_file(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            digest.update(file.read())
            return
        digest.update(file.read(_EDGE_BYTES))
        file.seek(-_EDGE_BYTES, 2)
        digest.update(file.read())
