"""Serve applications that stand in for both services: no engine, an answer at once."""

from __future__ import annotations

import os
from typing import Any

from ray import serve

from tests.fakes import FakeVerifier, make_questions

SERVICES = {
    "applications": [
        {
            "name": name,
            "route_prefix": None,
            "import_path": f"tests.stand_in_services:build_{name}",
            "deployments": [{"name": name.title(), "ray_actor_options": {"num_cpus": 0.2}}],
        }
        for name in ("decomposer", "verifier")
    ]
}
"""A Serve file of both."""


@serve.deployment(name="Decomposer")
class FakeDecomposerDeployment:
    """The same questions for every prompt."""

    async def decompose(self, prompt: str, **_: Any) -> Any:
        return make_questions(prompt)

    async def info(self) -> dict[str, Any]:
        return {"model": "fake", "program": "fake", "revision": "fake@1"}


@serve.deployment(name="Verifier")
class FakeVerifierDeployment:
    """P(yes) from the picture's bytes, so that rewards differ."""

    def __init__(self) -> None:
        self.verifier = FakeVerifier()

    async def verify(self, pixels: Any, questions: Any, **_: Any) -> Any:
        return await self.verifier.verify(pixels, questions)

    async def verify_all(self, asked: Any, **_: Any) -> Any:
        return [await self.verify(*each) for each in asked]

    async def info(self) -> dict[str, Any]:
        return {"model": "fake", "revision": "fake@1", "pid": os.getpid()}


def build_decomposer(args: dict[str, Any]) -> serve.Application:
    return FakeDecomposerDeployment.bind()  # type: ignore[attr-defined]


def build_verifier(args: dict[str, Any]) -> serve.Application:
    """``args``: options of the deployment, such as where its replica may be."""
    deployment: Any = FakeVerifierDeployment
    return (deployment.options(**args) if args else deployment).bind()
