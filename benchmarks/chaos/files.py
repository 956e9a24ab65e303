"""Files of a run that are damaged as a bad disk or a crash does it."""

from __future__ import annotations

from pathlib import Path

BAD_BYTES = 64 << 10


def damage_newest_checkpoint(folder: Path, choice: float) -> Path | None:
    """Change a few bytes, zero many, or cut its largest file short; None where there is none."""
    checkpoints = sorted((folder / "checkpoints").glob("step-[0-9]*"))
    # Of the only one nothing could be restored.
    if len(checkpoints) < 2:
        return None
    path = max(checkpoints[-1].rglob("*.safetensors"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    place = len(content) // 2 + int(choice * len(content) / 4)
    if choice < 1 / 3:
        content[place] ^= 1
    elif choice < 2 / 3:
        content[place : place + BAD_BYTES] = bytes(len(content[place : place + BAD_BYTES]))
    else:
        del content[place:]
    path.write_bytes(bytes(content))
    return path


def tear_metrics(folder: Path) -> None:
    """Cut the last line in its middle."""
    path = folder / "metrics.jsonl"
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(content[: last + (len(content) - last) // 2])
