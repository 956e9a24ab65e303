"""Opening safetensors files, with errors a user can act on. Free of torch until tensors are read.

Opening reads the header alone and compares it with the file's size, so a file that is truncated or
damaged is found in a moment, however large it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alphagrpo.errors import CheckpointError


@contextmanager
def open_tensors(
    path: Path,
    *,
    owner: str,
    remedy: str = "fetch it again",
    framework: Literal["np", "pt"] = "np",
    device: str = "cpu",
) -> Iterator[Any]:
    """The open file, as safetensors' ``safe_open``.

    Args:
        path: the file.
        owner: what needs it, for the errors: ``a BAGEL checkpoint``.
        remedy: what to do about a file that is not whole.
        framework: of the tensors that are read from it.
        device: where they go.

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework, device=device) as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(
            f"{owner} needs {path.name}; {path} does not exist; copy it there"
        ) from None
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} must be a whole safetensors file ({error}), got {size:,} bytes that are none; "
            f"it is truncated or of another format: {remedy}"
        ) from None


def check_tensor_file(path: Path, *, owner: str) -> None:
    """Raise CheckpointError unless ``path`` is a safetensors file of its full length."""
    with open_tensors(path, owner=owner):
        pass
