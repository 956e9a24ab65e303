"""How actors are named, placed, and given parts of packages they must not import."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from alphagrpo import errors
from alphagrpo.config import RunConfig
from alphagrpo.errors import ConfigError, MeshError

Handle = Any
"""An actor handle. Ray's own generic type knows none of the remote methods."""

_RAISED = re.compile(rf"{re.escape(errors.__name__)}\.(?P<name>\w+): (?P<message>.+)")

CONTROL = "control"
"""Concurrency group of calls that must be answered while an actor computes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that an actor makes for itself: ``module:function`` and JSON arguments.

    Example: ``Part("services.client:connect_verifier", {"app": "verifier"})``
    """

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Part:
        """What :meth:`to_json` gave."""
        return cls(record["path"], record["arguments"])

    def to_json(self) -> dict[str, Any]:
        """Path and arguments, for a checkpoint."""
        return {"path": self.path, "arguments": dict(self.arguments)}

    def make(self) -> Any:
        """Import and call it; ConfigError where there is no such function."""
        module, separator, name = self.path.partition(":")
        try:
            function = getattr(importlib.import_module(module), name) if separator else None
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"a part must be an importable module:function, got {self.path!r} ({error}); "
                "check the spelling and that the package is installed on every node"
            ) from error
        if not callable(function):
            raise ConfigError(f"a part must read module:function, got {self.path!r}")
        return function(**self.arguments)


def actor_name(run: str, role: str) -> str:
    """``alphagrpo:<run>:<role>``: what the dashboard shows, and what finds the actor again."""
    return f"alphagrpo:{run}:{role}"


def actor_options(
    config: RunConfig,
    role: str,
    *,
    cpus: float,
    gpus: float,
    selector: Mapping[str, str],
) -> dict[str, Any]:
    """Name, resources, node and environment of an actor of this run.

    ``selector`` is Ray's label selector; an empty one admits every node. Thread counts are set
    before torch is imported: OpenMP threads of several actors that spin on the same cores cost
    more than they do.
    """
    threads = str(config.rollout.threads)
    return {
        "name": actor_name(config.name, role),
        "num_cpus": cpus,
        "num_gpus": gpus,
        "label_selector": dict(selector),
        "runtime_env": {
            "env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        },
    }


async def answer(reference: Any) -> Any:
    """Await a call; an error this project raised on purpose comes back as itself, unwrapped."""
    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, MeshError):
            raise error.cause from None
        raise


def said_at_start(error: RayActorError) -> MeshError | None:
    """What an actor raised on purpose instead of starting; None where it died of something else.

    Ray keeps of it no more than its text, the last line of a traceback.
    """
    for line in reversed(str(error).splitlines()):
        if found := _RAISED.match(line.strip()):
            kind = getattr(errors, found["name"], None)
            if isinstance(kind, type) and issubclass(kind, MeshError):
                return kind(found["message"])
    return None
