"""Reading run configs: YAML, overrides, and errors that name the key, the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from alphagrpo.config.schema import RunConfig
from alphagrpo.errors import ConfigError


def load_config(path: Path | str, overrides: list[str] | None = None) -> RunConfig:
    """Read a run config from YAML and apply ``a.b=c`` overrides (values are YAML too).

    Raises ConfigError for a missing or malformed file, an unknown key or an impossible combination.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"the run config must be a file, {path} does not exist; check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the run config must be YAML in UTF-8, {path} is not: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"a run config must be a mapping of sections, {path} holds {type(raw).__name__}"
        )
    for override in overrides or []:
        _apply(raw, override)
    return parse_config(raw, source=str(path))


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
