"""Safetensors files: whole ones open, all others are refused with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from alphagrpo.errors import CheckpointError
from alphagrpo.tensor_files import check_tensor_file, open_tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    tensors = {"x": np.arange(15, dtype=np.float32).reshape(3, 5), "y": np.zeros(0, np.int64)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_a_whole_file_opens_with_its_tensors(path: Path) -> None:
    check_tensor_file(path, owner="a test")
    with open_tensors(path, owner="a test") as file:
        assert sorted(file.keys()) == ["x", "y"]
        np.testing.assert_array_equal(file.get_tensor("x")[1], [5, 6, 7, 8, 9])


@pytest.mark.parametrize("size", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_refused_with_its_length(path: Path, size: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    says = rf"some\.safetensors must be a whole safetensors file \(.*\), got {len(whole[:size])} b"
    with pytest.raises(CheckpointError, match=rf"{says}.*fetch it again"):
        check_tensor_file(path, owner="a test")


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + b"\x00" * 400,
        b"\xff" * 64,
        len(b"{]").to_bytes(8, "little") + b"{]",
        len(b"[1]").to_bytes(8, "little") + b"[1]",
    ],
)
def test_a_file_of_another_format_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a whole safetensors file"):
        check_tensor_file(path, owner="a test")


def test_bytes_too_many_or_shapes_that_lie_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"\x00")
    with pytest.raises(CheckpointError, match="whole"):
        check_tensor_file(path, owner="a test")
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["x"]["shape"] = [3, 6]
    lying = json.dumps(header).encode()
    path.write_bytes(len(lying).to_bytes(8, "little") + lying + whole[8 + length :])
    with pytest.raises(CheckpointError, match="whole"):
        check_tensor_file(path, owner="a test")


def test_a_missing_file_names_who_needs_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a test needs no\.safetensors.*copy it there"):
        check_tensor_file(tmp_path / "no.safetensors", owner="a test")


def test_the_remedy_is_the_callers(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="go back to an earlier one"):
        with open_tensors(path, owner="a test", remedy="go back to an earlier one"):
            pass


def test_errors_of_the_reader_pass_as_they_are(path: Path) -> None:
    with pytest.raises(KeyError), open_tensors(path, owner="a test"):
        raise KeyError("mine")


def test_checking_needs_no_torch(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from alphagrpo.tensor_files import *; "
        f"check_tensor_file(Path({str(path)!r}), owner='a test'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
