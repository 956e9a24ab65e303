"""The services over HTTP; ``import_path: services.gateway:build`` in a Serve config."""

from __future__ import annotations

from services.gateway.app import build

__all__ = ["build"]
