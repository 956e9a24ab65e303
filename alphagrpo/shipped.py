"""What the project ships under ``deploy/``: configs, Serve configs, the miniature models.

In a checkout the folder lies beside this package; in an installed wheel it is inside it.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "deploy"
"""First part of the paths that are looked for in what is shipped."""


_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The checkout this package is used from; None where a wheel of it is installed."""
    return None if (_PACKAGE / FOLDER).is_dir() else _PACKAGE.parent


def shipped_folder() -> Path:
    """The ``deploy/`` of the checkout, or of the installed wheel."""
    return (checkout() or _PACKAGE) / FOLDER


def locate(path: Path | str, folder: Path | str = "") -> Path:
    """``path`` from ``folder`` (default: the working directory), or else what is shipped.

    What lies in ``folder`` comes first. A relative path that begins with ``deploy/`` and is not
    there is the shipped one, where that exists; any other path is returned as it is, there or not.
    """
    own = Path(folder) / path
    if Path(path).parts[:1] != (FOLDER,) or own.exists():
        return own
    shipped = shipped_folder().parent / path
    return shipped if shipped.exists() else own
