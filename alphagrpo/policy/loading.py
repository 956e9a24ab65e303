"""The policy a run config names: model, adapters, tokenizer. Runners and learner build the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from alphagrpo.config import RunConfig
from alphagrpo.errors import CheckpointError
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.family import FAMILY, check_picture_size
from alphagrpo.policy.repeatability import check_repeatable
from alphagrpo.policy.trainable import add_adapters, trainable_parameters


class Tokenizer(Protocol):
    """Text to ids and back, without framing ids on the way in."""

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, no framing ids added."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ``token_ids``, think tags included."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded policy, with everything frozen but what the run trains."""

    model: UnifiedModel
    tokenizer: FolderTokenizer


def load_policy(config: RunConfig) -> Policy:
    """Load the policy of ``config`` on the device it names.

    Adapters start from the run's seed; runners replace them with the learner's before they draw.

    Raises:
        CheckpointError: for a model folder that is missing, truncated or of another shape.
        ConfigError: for a picture size the model cannot draw, and for a card on which the run's
            attention does not repeat itself.
    """
    section = config.model
    device = section.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = FAMILY.shape(section.folder)
    check_picture_size(config.task, shape)
    model = FAMILY.load(section.folder, dtype=getattr(torch, section.dtype), device=device)
    module = cast(nn.Module, model)
    if section.trainable == "lora":
        add_adapters(module, section.lora, config.seed)
    trainable_parameters(module, section.trainable)
    model.set_attention(section.attention)
    if torch.device(device).type == "cuda":
        check_repeatable(model, config, shape)
    return Policy(model, FolderTokenizer(section.folder))


class FolderTokenizer:
    """The tokenizer of a model folder: text to ids and back, nothing added, nothing left out."""

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / FAMILY.tokenizer_file
        if not path.exists():
            raise CheckpointError(
                f"a model folder needs {path.name}, {path} does not exist; copy it there, or "
                "make it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        # Not through transformers: its import costs each actor seconds.
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(
                f"{path} must be a tokenizer file ({error}); fetch it again"
            ) from error

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without framing ids."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ``token_ids``, special tokens and think tags included."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))
