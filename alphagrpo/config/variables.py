"""Environment variables inside the values of a config: ``${NAME}`` and ``${NAME:-default}``."""

from __future__ import annotations

import os
import re
from typing import Any

from alphagrpo.errors import ConfigError

VARIABLE = re.compile(r"\$\{(?P<name>[A-Z][A-Z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand_variables(value: Any, source: str, key: str = "") -> Any:
    """``value``, as YAML gave it, with the variables that its strings name.

    ``source`` and the dotted ``key`` are for the message: ConfigError for a variable that is not
    set (or empty) and has no default.
    """
    if isinstance(value, dict):
        return {
            name: expand_variables(inner, source, f"{key}.{name}".lstrip("."))
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [expand_variables(inner, source, f"{key}[{i}]") for i, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        text = os.environ.get(match["name"]) or match["default"]
        if text is None:
            raise ConfigError(
                f"{key} in {source} names the environment variable {match['name']}, which is not "
                "set; export it, or write the value in its place"
            )
        return text

    return VARIABLE.sub(found, value)
