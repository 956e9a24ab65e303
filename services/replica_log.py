"""Keeps Serve's log file of a replica, which vLLM would end with its import."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


@contextmanager
def kept_log_file() -> Iterator[None]:
    """Give the handlers of Serve's logger their files back after the body.

    vLLM configures logging when it is imported, which closes every handler there is; one that
    buffers for a file then has no file any more, and drops in silence what it is given.
    """
    handlers = [h for h in logging.getLogger("ray.serve").handlers if isinstance(h, MemoryHandler)]
    targets = [handler.target for handler in handlers]
    try:
        yield
    finally:
        for handler, target in zip(handlers, targets, strict=True):
            handler.setTarget(target)
