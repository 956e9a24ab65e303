"""Where served models lie: relative paths in a Serve config are read from the project root."""

from __future__ import annotations

import os
import re
from pathlib import Path

from alphagrpo.errors import CheckpointError
from alphagrpo.judging.engine import check_model_folder

ROOT_VARIABLE = "ALPHAGRPO_ROOT"
"""Names the project root where the packages are installed away from ``deploy/``."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def project_root() -> Path:
    """The folder that holds ``deploy/``: ``$ALPHAGRPO_ROOT``, or the checkout of this package.

    With a Ray ``working_dir`` the checkout is the unpacked copy on each node.
    """
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parents[1]


def resolve_model(model: str) -> str:
    """A model folder as an absolute path, or a hub id (``org/name``) as it is.

    Raises CheckpointError for a path that is no folder.
    """
    path = project_root() / model
    if path.is_dir():
        return str(path)
    if _HUB_ID.fullmatch(model) and not (project_root() / model.split("/")[0]).exists():
        return model
    raise CheckpointError(
        f"a served model is a folder (relative to {project_root()}) or a hub id, got {model!r}; "
        f"train it, fix the path in the Serve config, or set {ROOT_VARIABLE}"
    )


def check_model(model: str) -> None:
    """Raises CheckpointError for a model that cannot be served, before anything is started.

    Hub ids, and absolute paths that exist on the replicas' nodes only, are checked there.
    """
    if Path(model).is_absolute() and not Path(model).exists():
        return
    resolved = Path(resolve_model(model))
    if resolved.is_dir():
        check_model_folder(resolved)
