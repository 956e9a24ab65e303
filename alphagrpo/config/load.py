"""Reading run configs: YAML, its bases, overrides, and errors that name key, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from alphagrpo.config.schema import RunConfig
from alphagrpo.config.variables import expand_variables
from alphagrpo.errors import ConfigError
from alphagrpo.shipped import locate

BASE = "base"
"""Key of a run config that extends others: one path or several, relative to the file itself.

A path under ``deploy/`` that is not there is the shipped one (:func:`alphagrpo.shipped.locate`).
"""


def load_config(path: Path | str, overrides: list[str] | None = None) -> RunConfig:
    """Read a run config from YAML and apply ``a.b=c`` overrides (values are YAML too).

    A file may extend others (``base: other.yaml``): sections are merged key by key, all else is
    replaced; of several bases the later one wins, and the file itself over all of them.
    ``${NAME}`` and ``${NAME:-default}`` in a value stand for an environment variable.

    Raises ConfigError for a missing or malformed file, bases that lead in a circle, a variable that
    is not set, an unknown key or an impossible combination.
    """
    raw = _read(locate(path))
    for override in overrides or []:
        _apply(raw, override)
    return parse_config(expand_variables(raw, str(path)), source=str(path))


def parse_config(raw: dict[str, Any], *, source: str = "config") -> RunConfig:
    """Validate a mapping as a run config; ConfigError names every offending key."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = [f"{source} is not a valid run config:"]
        for issue in error.errors():
            key = ".".join(str(part) for part in issue["loc"]) or "(combination)"
            got = "" if issue["type"] in {"missing", "value_error"} else f", got {issue['input']!r}"
            remedy = (
                "; remove it or check its spelling" if issue["type"] == "extra_forbidden" else ""
            )
            lines.append(f"  {key}: {issue['msg'].removeprefix('Value error, ')}{got}{remedy}")
        raise ConfigError("\n".join(lines)) from None


def _read(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a file over those of its bases; ``extended_by`` led to it, outermost first."""
    if path.resolve() in [file.resolve() for file in extended_by]:
        chain = " extends ".join(str(file) for file in (*extended_by, path))
        raise ConfigError(f"a run config cannot extend itself, got {chain}; remove one base")
    own = _read_file(path, extended_by)
    merged: dict[str, Any] = {}
    for base in _bases(own.pop(BASE, []), path):
        merged = _merged(merged, _read(locate(base, path.parent), (*extended_by, path)))
    return _merged(merged, own)


def _read_file(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        remedy = "check the path"
        if extended_by:
            remedy = f"check {BASE} in {extended_by[-1]}: it is relative to that file's folder"
        raise ConfigError(
            f"the run config must be a file, {path} does not exist or is a folder; {remedy}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the run config must be YAML in UTF-8, {path} is not: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"a run config must be a mapping of sections, {path} holds {type(raw).__name__}"
        )
    return raw


def _bases(value: Any, path: Path) -> list[str]:
    bases: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(base, str) and base for base in bases):
        raise ConfigError(
            f"{BASE} is the path of a run config to extend, or a list of them, {path} has "
            f"{value!r}; write for example base: shapes-rt2i.yaml, or leave it out"
        )
    return bases


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``: mappings are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            value = _merged(before, value)
        merged[key] = value
    return merged


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"an override must read section.key=value, got {override!r}")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"override {override!r} descends into {parent!r}, which is not a section"
            )
        node = child
    node[leaf] = yaml.safe_load(value)
