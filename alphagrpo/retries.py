"""How often what failed is tried again, and the pause before each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphagrpo.config.retrying import PauseConfig

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Retries:
    """At most ``count`` further attempts, each after a pause; without a ``pause`` at once."""

    count: int = 0
    pause: PauseConfig | None = None
    sleep: Sleep = asyncio.sleep

    async def wait(self, retry: int) -> None:
        """The pause before retry number ``retry``, from 1."""
        await self.sleep(self.pause.seconds(retry) if self.pause else 0.0)
