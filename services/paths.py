"""Where served models lie: relative paths in a Serve config are read from the project root.

Those under ``deploy/`` that are not there are the shipped ones (:mod:`alphagrpo.shipped`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from alphagrpo import shipped
from alphagrpo.errors import CheckpointError
from alphagrpo.judging.engine import check_model_folder

ROOT_VARIABLE = "ALPHAGRPO_ROOT"
"""Names the project root where it is neither the checkout nor the working directory."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def project_root() -> Path:
    """``$ALPHAGRPO_ROOT``, else the checkout of this package, else the working directory.

    With a Ray ``working_dir`` the checkout is the unpacked copy on each node. An installed wheel
    has no checkout: there a replica's working directory is the one Ray was started in.
    """
    if named := os.environ.get(ROOT_VARIABLE):
        return Path(named)
    return shipped.checkout() or Path.cwd()


def resolve_model(model: str) -> str:
    """A model folder as an absolute path, or a hub id (``org/name``) as it is.

    Raises CheckpointError for a path that is no folder.
    """
    path = shipped.locate(model, project_root())
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
