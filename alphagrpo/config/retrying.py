"""How long to wait before what failed is tried again."""

from __future__ import annotations

from pydantic import Field

from alphagrpo.config.sampling import Section


class PauseConfig(Section):
    """Pauses that double: the n-th lasts ``first_s`` * 2^(n - 1) seconds, ``most_s`` at most."""

    first_s: float = Field(5.0, ge=0)
    most_s: float = Field(60.0, ge=0)

    def seconds(self, retry: int) -> float:
        """Of the pause before retry number ``retry``, from 1."""
        # Beyond this the power is larger than any pause, and at last than any float.
        return min(self.first_s * 2.0 ** min(retry - 1, 64), self.most_s)
