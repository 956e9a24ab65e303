"""A trained policy as a Serve application; ``import_path: services.generator:build``."""

from __future__ import annotations

from services.generator.deployment import build

__all__ = ["build"]
