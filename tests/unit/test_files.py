"""A reader sees the old file or the new one, and nothing else is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphagrpo.errors import CheckpointError
from alphagrpo.files import read_state, replacing, write_atomically


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
    path.write_text('{"format": 2, "step": 4}')
    assert read_state(path, format_number=2, owner="a checkpoint")["step"] == 4
