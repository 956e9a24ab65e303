"""A model's revision follows its files, and broken folders are found before they are served."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from alphagrpo.errors import CheckpointError
from alphagrpo.judging.engine import folder_revision


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros((8, 8), np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_revision_changes_with_weights_tokenizer_and_config(folder):
    seen = {folder_revision(folder)}
    assert folder_revision(folder) in seen
    (folder / "tokenizer.json").write_text("{} ")
    seen.add(folder_revision(folder))
    save_file({"w": np.ones((8, 8), np.float32)}, folder / "model.safetensors")
    seen.add(folder_revision(folder))
    assert len(seen) == 3
    assert all(len(revision) == 8 for revision in seen)


def test_a_truncated_weights_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        folder_revision(folder)
    path.write_bytes(b"\x00" * 4)
    with pytest.raises(CheckpointError, match="safetensors"):
        folder_revision(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_its_parts_is_refused(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=r"config\.json and"):
        folder_revision(folder)
