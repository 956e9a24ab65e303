"""BAGEL from its published architecture.

A decoder with two experts, a vision transformer, and an autoencoder. The names below are imported
on first use, so that reading a config does not import torch.

>>> from alphagrpo.models.bagel import load_bagel  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphagrpo.models.bagel.checkpoint import load_bagel, random_bagel, save_bagel
    from alphagrpo.models.bagel.config import BagelConfig, tiny_config
    from alphagrpo.models.bagel.model import Bagel

__all__ = ["Bagel", "BagelConfig", "load_bagel", "random_bagel", "save_bagel", "tiny_config"]

_HOME = {
    "Bagel": "model",
    "BagelConfig": "config",
    "load_bagel": "checkpoint",
    "random_bagel": "checkpoint",
    "save_bagel": "checkpoint",
    "tiny_config": "config",
}


def __getattr__(name: str) -> Any:
    """Import ``name`` from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
