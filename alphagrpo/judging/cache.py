"""A bounded memory of answers: least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from alphagrpo.errors import ConfigError

V = TypeVar("V")


class LruCache(Generic[V]):
    """At most ``capacity`` answers by key; 0 keeps none. For one event loop, not for threads."""

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ConfigError(f"a cache's capacity is at least 0, got {capacity}; 0 turns it off")
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[tuple[str, ...], V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: tuple[str, ...]) -> V | None:
        """The answer kept under ``key``, now the most recently used, or None."""
        if key not in self._entries:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: tuple[str, ...], value: V) -> None:
        """Keep ``value``; the least recently used entry goes if there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
