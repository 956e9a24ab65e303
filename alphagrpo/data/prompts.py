"""Prompt sources: text files, JSON-lines files, and the miniature world's own prompt sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alphagrpo.errors import ConfigError, PromptFileError
from alphagrpo.seeds import derive
from alphagrpo.types import Prompt, Sort

if TYPE_CHECKING:
    from alphagrpo.shapes.splits import Split

WORLD_PREFIX = "shapes:"
WORLD_SPLITS = ("train", "heldout")
TEXT_KEYS = ("prompt", "text")


def load_prompts(
    source: str, *, num: int | None = None, thought_share: float = 0.5, seed: int = 0
) -> tuple[Prompt, ...]:
    """The prompts of ``source``, in an order that depends on ``seed`` alone.

    ``source`` is a ``.txt`` file (one prompt a line), a ``.jsonl`` file (an object with ``prompt``
    or ``text`` a line; other keys become metadata), or ``shapes:train`` / ``shapes:heldout``, of
    which ``num`` (default 1,024) are sampled, a share ``thought_share`` of them needing a thought.

    Raises ConfigError for an unknown source, PromptFileError for a file that is empty, not UTF-8
    or holds a malformed line.
    """
    if source.startswith(WORLD_PREFIX):
        return _world(source, 1024 if num is None else num, thought_share, seed)
    prompts = read_prompt_file(Path(source))
    order = np.random.default_rng(derive("prompts", seed)).permutation(len(prompts))
    return tuple(prompts[i] for i in order[:num])


def read_prompt_file(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a ``.txt`` or ``.jsonl`` file in file order; ids are ``<stem>:<line>``."""
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError(
            f"a prompt source must be a .txt or .jsonl file or one of "
            f"{', '.join(WORLD_PREFIX + split for split in WORLD_SPLITS)}, got {str(path)!r}"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise PromptFileError(
            f"the prompt file must exist, {path} does not; check data.train and data.heldout"
        ) from None
    except UnicodeDecodeError as error:
        raise PromptFileError(
            f"a prompt file must be UTF-8, {path} has byte {error.object[error.start]:#04x} at "
            f"offset {error.start}; convert it, for example with iconv -t UTF-8"
        ) from None
    read = _json_lines if path.suffix == ".jsonl" else _text_lines
    prompts = tuple(read(path, text))
    if not prompts:
        raise PromptFileError(
            f"a prompt file must hold at least one prompt, {path} holds none; write one per line"
        )
    return prompts


def load_heldout(
    source: str, *, num_plain: int, num_thought: int, seed: int = 0
) -> tuple[Prompt, ...]:
    """Held-out prompts by sort: plain ones first, then those that need a thought.

    A prompt's sort is ``metadata["sort"]``; prompts of a file that say nothing are plain. Raises
    what :func:`load_prompts` raises.
    """
    if source.startswith(WORLD_PREFIX):
        split = _split(source)
        plain = _distinct(split, "plain", num_plain, seed)
        return (*plain, *_distinct(split, "thought", num_thought, seed))
    prompts = load_prompts(source, seed=seed)
    thought = [prompt for prompt in prompts if sort_of(prompt) == "thought"]
    plain = [prompt for prompt in prompts if sort_of(prompt) != "thought"]
    return (*plain[:num_plain], *thought[:num_thought])


def sort_of(prompt: Prompt) -> Sort:
    """``thought`` for a prompt that needs one, else ``plain``."""
    return "thought" if prompt.metadata.get("sort") == "thought" else "plain"


def check_source(source: str) -> None:
    """Raise what :func:`load_prompts` would raise for ``source``, without sampling any prompt."""
    if not source.startswith(WORLD_PREFIX):
        read_prompt_file(Path(source))
    else:
        _split(source)


def _text_lines(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Prompt(id=f"{path.stem}:{number}", text=line.strip())


def _json_lines(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptFileError(
                f"each line of {path} must be a JSON object, line {number} is not: {error.msg} at "
                f"column {error.colno}; fix or remove the line"
            ) from None
        prompt = _prompt_text(record)
        if prompt is None:
            raise PromptFileError(
                f'each line of {path} must be an object with a non-empty string "prompt" or '
                f'"text", line {number} is {line.strip()[:80]!r}; fix or remove the line'
            )
        rest: dict[str, Any] = {k: v for k, v in record.items() if k not in (*TEXT_KEYS, "id")}
        yield Prompt(id=str(record.get("id", f"{path.stem}:{number}")), text=prompt, metadata=rest)


def _prompt_text(record: Any) -> str | None:
    if not isinstance(record, dict):
        return None
    for key in TEXT_KEYS:
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _unknown_split(source: str) -> ConfigError:
    return ConfigError(
        f"the shapes world has the prompt sets "
        f"{', '.join(WORLD_PREFIX + split for split in WORLD_SPLITS)}, got {source!r}"
    )


def _split(source: str) -> Split:
    split = source.removeprefix(WORLD_PREFIX)
    if split == "train":
        return "train"
    if split == "heldout":
        return "heldout"
    raise _unknown_split(source)


def _world(source: str, num: int, thought_share: float, seed: int) -> tuple[Prompt, ...]:
    split = _split(source)
    num_thought = round(num * thought_share)
    prompts = _distinct(split, "plain", num - num_thought, seed)
    prompts += _distinct(split, "thought", num_thought, seed)
    order = np.random.default_rng(derive("prompts", seed)).permutation(len(prompts))
    return tuple(prompts[i] for i in order)


def _distinct(split: Split, sort: Sort, num: int, seed: int) -> list[Prompt]:
    """``num`` prompts with distinct ids, or as many as the world has when it runs out."""
    from alphagrpo.shapes.splits import prompts  # kept off the path of runs on prompt files

    by_id: dict[str, Prompt] = {}
    size = num
    while num and len(by_id) < num and size <= num * 8:
        by_id = {prompt.id: prompt for prompt in prompts(split, sort, size, seed)}
        size *= 2
    return list(by_id.values())[:num]
