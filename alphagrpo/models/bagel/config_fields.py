"""Reading fields of a checkpoint's JSON files, with errors that name the field. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from alphagrpo.errors import CheckpointError

T = TypeVar("T", int, float, str, bool)

FRAMING_TOKENS = {
    "bos_token_id": "<|im_start|>",
    "eos_token_id": "<|im_end|>",
    "start_of_image": "<|vision_start|>",
    "end_of_image": "<|vision_end|>",
}
"""Names in ``config.json`` of the framing tokens, and their text in the tokenizer."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``; :class:`CheckpointError` where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"a BAGEL checkpoint needs {path.name}; {path} does not exist; "
            "copy it from the released model or point at the right folder"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} must be JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def require_multiple(name: str, value: int, of: int) -> None:
    """Refuse a ``value`` that is no positive multiple of ``of``."""
    if of <= 0 or value <= 0 or value % of:
        raise CheckpointError(
            f"{name} must be a positive multiple of {of}, got {value}; fix the checkpoint's config"
        )


def get_field(source: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """A field of type ``kind``; ``default`` None means it is required."""
    value = source.get(key, default)
    if value is None:
        raise CheckpointError(
            f"config field {key!r} is required and missing; use the config files of the release"
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CheckpointError(
            f"config field {key!r} must be {kind.__name__}, got {value!r}; fix the config file"
        )
    return value


def expect_field(source: Mapping[str, Any], key: str, expected: object) -> None:
    """Refuse a field that is given and is not ``expected``."""
    if source.get(key, expected) != expected:
        raise CheckpointError(
            f"config field {key!r} must be {expected!r} (what BAGEL is), got {source[key]!r}; "
            "this checkpoint is of another model"
        )


def special_from_tokenizer(folder: Path) -> dict[str, int]:
    """Ids of the framing tokens among a tokenizer's added tokens (either of its two files)."""
    ids: dict[str, int] = {}
    if (folder / "tokenizer.json").exists():
        for token in read_json(folder / "tokenizer.json").get("added_tokens", []):
            ids[token["content"]] = int(token["id"])
    if (folder / "tokenizer_config.json").exists():
        added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        ids.update({token["content"]: int(number) for number, token in added.items()})
    missing = [text for text in FRAMING_TOKENS.values() if text not in ids]
    if missing:
        raise CheckpointError(
            f"the framing tokens must be known; {folder} names no id for {', '.join(missing)}; "
            "add special_token_ids to config.json or put the tokenizer's files beside it"
        )
    return {name: ids[text] for name, text in FRAMING_TOKENS.items()}
