"""Folders that several processes of a run use: found by all of them, and the same for all.

A learner on another node writes checkpoints; without shared storage the first of them would be the
first to fail, hours after the start. Hence every actor is asked once, before a run writes there.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import ray

from actors.parts import Handle, answer
from alphagrpo.config import RunConfig
from alphagrpo.errors import EnvironmentProblem

QUESTION, ANSWER = ".storage-question", ".storage-answer-"
PATIENCE_S = 15.0
"""Network file systems show a new file late: NFS keeps a folder's attributes for seconds."""
POLL_S = 0.25


async def check_storage(folder: Path, actors: Mapping[str, Handle]) -> None:
    """Every actor, by its role, reads a file that is written here, and its copy is read back.

    Raises EnvironmentProblem that names the roles and nodes which see another folder, or none.
    """
    word = secrets.token_hex(16)
    try:
        await asyncio.to_thread(_ask, folder, word)
        calls = [answer(actor.probe.remote(str(folder), role)) for role, actor in actors.items()]
        problems = [problem for problem in await asyncio.gather(*calls) if problem]
        if not problems:
            problems = await asyncio.to_thread(_missing, folder, word, list(actors))
    finally:
        await asyncio.to_thread(_clean, folder, list(actors))
    if problems:
        raise EnvironmentProblem(
            f"all processes of a run must read and write the same folder {folder}, some cannot: "
            f"{'; '.join(problems)}; put `output` on storage that every node mounts at one path"
        )


def config_for_actors(config: RunConfig) -> RunConfig:
    """``config`` with the model's folder as an actor finds it, which works in another folder.

    Inside a job both work in a copy of its ``working_dir``, each node in its own: there a relative
    path leads to the same thing. One that is not here stays as well: it may be there.
    """
    path = Path.cwd() / config.model.path
    if ray.get_runtime_context().runtime_env.get("working_dir") or not path.exists():
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path})})


def answer_probe(folder: str, role: str) -> str:
    """Inside an actor: copy the driver's word; what stood in the way, or an empty string."""
    path = Path(folder)
    _wait_for(lambda: (path / QUESTION).exists())
    try:
        (path / (ANSWER + role)).write_bytes((path / QUESTION).read_bytes())
    except OSError as error:
        return f"{role} on {socket.gethostname()} as user {os.getuid()}: {error}"
    return ""


def _ask(folder: Path, word: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / QUESTION).write_text(word, encoding="utf-8")


def _missing(folder: Path, word: str, roles: Sequence[str]) -> list[str]:
    """Roles whose copies do not arrive, as problems."""

    def arrived(role: str) -> bool:
        try:
            return (folder / (ANSWER + role)).read_text(encoding="utf-8") == word
        except OSError:
            return False

    late = [role for role in roles if not _wait_for(partial(arrived, role))]
    return [f"{role}: what it wrote there is not here" for role in late]


def _clean(folder: Path, roles: Sequence[str]) -> None:
    for name in (QUESTION, *(ANSWER + role for role in roles)):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def _wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True
