"""Serve configs, read once and strictly: Ray's own schema lets unknown keys pass, typos with them.

Needs Ray's schema and no running Ray.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import ProxyLocation
from ray.serve.schema import ServeDeploySchema

from alphagrpo.errors import ConfigError
from alphagrpo.shipped import locate
from services.addresses import GATEWAY
from services.exposure import check_exposure
from services.settings import GatewaySettings, parse_settings

_FREE_FORM = {"args", "runtime_env", "user_config", "policy_kwargs", "init_kwargs"}
"""Keys whose values are not Ray's business; ``args`` are checked by the application's builder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeFile:
    """A Serve config as it was read, once, and passed on to whoever needs something of it."""

    path: Path
    raw: Mapping[str, Any]
    """What the file says, without Serve's defaults."""
    schema: ServeDeploySchema
    """The same with Serve's defaults, as Serve takes it."""

    @property
    def applications(self) -> tuple[str, ...]:
        """Names of the applications, in the file's order."""
        return tuple(app.name for app in self.schema.applications)

    @property
    def http_port(self) -> int:
        """The port Serve's HTTP proxy will listen on."""
        return int(self.schema.http_options.port)

    @property
    def http_host(self) -> str | None:
        """Where Serve's HTTP proxy will listen; None for a file that asks for no proxy."""
        if self.schema.proxy_location == ProxyLocation.Disabled:
            return None
        return str(self.schema.http_options.host)

    def only(self, names: Sequence[str]) -> ServeFile:
        """The file with these applications alone; ConfigError where it lacks one."""
        positions = {name: index for index, name in enumerate(self.applications)}
        for name in names:
            if name not in positions:
                raise ConfigError(
                    f"{self.path} must have the application {name!r}, it has "
                    f"{', '.join(positions)}; check services.*_app in the run config or the Serve "
                    "config"
                )
        raw = [self.raw["applications"][positions[name]] for name in names]
        schema = [self.schema.applications[positions[name]] for name in names]
        return replace(
            self,
            raw={**self.raw, "applications": raw},
            schema=self.schema.model_copy(update={"applications": schema}),
        )

    def check_applications(self) -> None:
        """Run the builders of this project's applications, which start nothing.

        Raises ConfigError for an import path that leads nowhere and for arguments a builder
        refuses, CheckpointError for a model that is not there, ConfigError for a gateway that
        others could reach without a token.
        """
        for app in self.schema.applications:
            _check_builder(app.import_path, dict(app.args), self.path)
            if app.import_path == GATEWAY and app.route_prefix is not None:
                settings = parse_settings(GatewaySettings, dict(app.args), app.name)
                check_exposure(settings.asks_for_a_token, self.http_host)


def load_serve_file(path: Path, apps: Sequence[str] | None = None) -> ServeFile:
    """A Serve config of which the applications ``apps`` (None: all) can be deployed.

    No cluster is needed. Raises as :func:`read_serve_file`, :meth:`ServeFile.only` and
    :meth:`ServeFile.check_applications`.
    """
    serve_file = read_serve_file(path)
    if apps is not None:
        serve_file = serve_file.only(apps)
    serve_file.check_applications()
    return serve_file


def read_serve_file(path: Path) -> ServeFile:
    """A multi-application Serve config (what ``serve deploy`` takes), its form checked.

    A path under ``deploy/`` that is not there is the shipped one. Raises ConfigError for a missing
    file, bad YAML, unknown keys at any level and values Ray refuses.
    """
    path = locate(path)
    raw = _read(path)
    unknown = sorted(_unknown_keys(raw, ServeDeploySchema, ""))
    if unknown:
        raise ConfigError(
            f"a Serve config holds only keys Ray knows, {path} has {', '.join(unknown)}; remove "
            "them or check their spelling"
        )
    try:
        schema = ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        issues = "; ".join(
            f"{'.'.join(str(part) for part in issue['loc'])}: {issue['msg']}"
            for issue in error.errors()
        )
        raise ConfigError(f"{path} is not a valid Serve config: {issues}; fix it") from None
    if not schema.applications:
        raise ConfigError(f"a Serve config lists at least one application, {path} has none")
    return ServeFile(path=path, raw=raw, schema=schema)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"the Serve config must exist, {path} does not; check services.serve_config, or the "
            "path given to the command"
        ) from None
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
    if module.split(".")[0] != "services":
        return
    try:
        builder = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"an import_path names a builder, {path} has {import_path!r} ({error}); check it"
        ) from None
    builder(args)
