"""A reader sees the old file or the new one, and nothing else is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from alphagrpo import files
from alphagrpo.errors import CheckpointError, DiskFull
from alphagrpo.files import read_state, remove_partials, replacing, write_atomically, write_state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state.json"]


def test_the_new_file_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    with replacing(path) as partial, replacing(path) as other:
        partial.write_text("one")
        other.write_text("another")
        assert partial != other, "several writers have a partial file each"
        assert not path.exists()
    assert path.read_text() == "one", "the outer block ended last"
    assert names(path.parent) == ["state.json"]


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "Füchse 狐")
    assert (tmp_path / "a").read_bytes() == "Füchse 狐".encode()
    write_atomically(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "a checkpoint needs state.json, .* not finished"),
        ("{half", "must be JSON"),
        ("[1]", r"must be of format 2, got \[1\]"),
        ('{"format": 1}', "must be of format 2, got 1; resume with the release"),
    ],
)
def test_a_state_that_is_not_whole_or_of_another_format_is_refused(
    tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "state.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=says):
        read_state(path, format_number=2, owner="a checkpoint")
    write_state(path, {"format": 2, "step": 4})
    assert read_state(path, format_number=2, owner="a checkpoint") == {"format": 2, "step": 4}


def test_a_state_knows_its_own_bytes_whatever_was_changed_in_them(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(path, {"format": 2, "step": 4, "visits": {"p": 1}, "share": 0.1})
    whole = path.read_text()
    for old, new in (
        ('"step": 4', '"step": 5'),
        ('"p"', '"q"'),
        ("0.1", "NaN"),
        ('"digest"', '"d"'),
    ):
        assert old in whole
        path.write_text(whole.replace(old, new))
        with pytest.raises(CheckpointError, match="must have the digest that it holds itself"):
            read_state(path, format_number=2, owner="a checkpoint")


def test_a_state_of_before_there_were_digests_is_read_where_its_format_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"format": 1, "step": 4}')
    assert read_state(path, format_number=2, oldest=1, owner="a checkpoint")["step"] == 4
    path.write_text('{"format": 2, "step": 4}')
    with pytest.raises(CheckpointError, match="digest"):
        read_state(path, format_number=2, oldest=1, owner="a checkpoint")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_with_the_path_and_what_was_needed(
    tmp_path: Path, number: int
) -> None:
    path = tmp_path / "learner.safetensors"

    def fill() -> None:
        with replacing(path, 12_345) as partial:
            partial.write_bytes(b"half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(DiskFull) as caught:
        fill()
    message = str(caught.value)
    assert f"writing {path} needs 12,345 bytes, the disk has " in message
    assert "--resume" in message
    assert "\n" not in message
    assert names(tmp_path) == []


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")


def test_names_are_on_disk_as_well_as_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order: the file's bytes, then the folder that has its new name."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(files, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))
    write_atomically(tmp_path / "deep" / "state.json", "{}")
    assert synced[0] == tmp_path.name, "the new folder's name"
    assert synced[1].startswith(".state.json.")
    assert synced[2:] == ["deep"]


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    for name in (".a.12-34.partial", "mine.partial", ".hidden"):
        (tmp_path / name).write_text("x")
    remove_partials(tmp_path)
    assert names(tmp_path) == [".hidden", "mine.partial"]
