"""Reading Serve configs strictly: Ray's own schema lets unknown keys pass, and typos with them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from alphagrpo.errors import ConfigError

_FREE_FORM = {"args", "runtime_env", "user_config", "policy_kwargs", "init_kwargs"}
"""Keys whose values are not Ray's business; ``args`` are checked by the application's builder."""


def load_serve_config(path: Path) -> ServeDeploySchema:
    """A multi-application Serve config (what ``serve deploy`` takes), checked before use.

    Raises ConfigError for a missing file, bad YAML, unknown keys at any level, values Ray refuses,
    and arguments an application's builder refuses.
    """
    raw = _read(path)
    unknown = sorted(_unknown_keys(raw, ServeDeploySchema, ""))
    if unknown:
        raise ConfigError(
            f"a Serve config holds only keys Ray knows, {path} has {', '.join(unknown)}; remove "
            "them or check their spelling"
        )
    try:
        config = ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        issues = "; ".join(
            f"{'.'.join(str(part) for part in issue['loc'])}: {issue['msg']}"
            for issue in error.errors()
        )
        raise ConfigError(f"{path} is not a valid Serve config: {issues}; mend it") from None
    if not config.applications:
        raise ConfigError(f"a Serve config lists at least one application, {path} has none")
    for app in config.applications:
        _check_builder(app.import_path, dict(app.args), path)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"a Serve config is a file, {path} does not exist; check it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a Serve config is YAML in UTF-8, {path} is not: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"a Serve config is a mapping, {path} holds {type(raw).__name__}")
    return raw


def _unknown_keys(raw: Any, model: type[BaseModel], where: str) -> Iterator[str]:
    """Dotted names of keys in ``raw`` that ``model`` or a model inside it does not have."""
    if not isinstance(raw, dict):
        return
    names = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in raw.items():
        label = f"{where}.{key}".lstrip(".")
        if key not in names:
            yield label
        elif key not in _FREE_FORM:
            for inner in _models_in(names[key].annotation):
                items = value if isinstance(value, list) else [value]
                for i, item in enumerate(items):
                    suffix = f"[{i}]" if isinstance(value, list) else ""
                    yield from _unknown_keys(item, inner, label + suffix)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models named in an annotation, inside lists and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)


def _check_builder(import_path: str, args: dict[str, Any], path: Path) -> None:
    """Runs the application's builder, which for this project's own starts nothing."""
    module, _, name = import_path.replace(":", ".").rpartition(".")
    if not module.startswith("services"):
        return
    try:
        builder = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"an import_path names a builder, {path} has {import_path!r} ({error}); check it"
        ) from None
    builder(args)
