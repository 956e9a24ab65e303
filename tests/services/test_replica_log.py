"""What a replica writes into Serve's log file after vLLM was imported is there."""

from __future__ import annotations

import logging
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path

from services.replica_log import kept_log_file


def test_the_log_file_outlives_a_configuration_of_logging(tmp_path: Path) -> None:
    file = RotatingFileHandler(tmp_path / "replica.log")
    memory = MemoryHandler(1000, flushLevel=logging.ERROR, target=file)
    log = logging.getLogger("ray.serve")
    log.addHandler(memory)
    try:
        with kept_log_file():
            # What dictConfig does to the handlers that are there; the whole would undo pytest's.
            memory.close()
            file.close()
        log.error("this replica ends itself")
    finally:
        log.removeHandler(memory)
        memory.close()
        file.close()
    assert "ends itself" in (tmp_path / "replica.log").read_text()
