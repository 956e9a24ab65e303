"""Layers in shards: gradients, bits, checkpoints and published bytes are those of a whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alphagrpo.errors import CheckpointError
from alphagrpo.learner.optimizer import MasterAdamW
from alphagrpo.learner.rounds import Round
from alphagrpo.learner.state import load_learner, save_learner
from alphagrpo.models import weights
from alphagrpo.policy.checkpoint import load_weights
from alphagrpo.policy.trainable import trainable_parameters
from tests import sharded_ranks as ranks

Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return ranks.start(ranks.gradients_of_two, 2, tmp_path_factory.mktemp("gradients"))


class Whole:
    """One learner with the whole model, which saves after its first step of two."""

    def __init__(self, folder: Path) -> None:
        self.parameters = trainable_parameters(ranks.half_model(), "experts")
        self.optimizer = MasterAdamW(self.parameters, ranks.STEPS)
        self.holder = ranks.Holder(self.optimizer, step=1)
        self.published = [self.checksum()]
        ranks.take_step(self.optimizer, self.parameters, 0)
        self.published.append(self.checksum())
        save_learner(self.holder, folder / "one")  # type: ignore[arg-type]
        self.size = sum(tensor.numel() for tensor in self.optimizer.state_tensors().values())
        ranks.take_step(self.optimizer, self.parameters, 1)
        self.published.append(self.checksum())

    def checksum(self) -> str:
        return weights.flatten(self.parameters, version=3, chunk_bytes=4096)[0].checksum


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Whole:
    return Whole(folder)


@pytest.fixture(scope="module")
def two(folder: Path, whole: Whole) -> Findings:
    return ranks.start(ranks.checkpoints_of_two, 2, folder)


@pytest.fixture(scope="module")
def three(folder: Path, two: Findings) -> Findings:
    return ranks.start(ranks.checkpoints_of_three, 3, folder)


def test_two_ranks_have_the_gradients_of_one_plain_backward(gradients: Findings) -> None:
    for found in gradients:
        assert found["error"] < 1e-5
        assert found["missing"] == [], (
            "a weight that nothing reached has no gradient on either side"
        )
        assert found["share"] == pytest.approx(0.5, abs=0.01)


def test_a_rank_without_a_group_of_its_own_keeps_step_and_counts_nothing(
    gradients: Findings,
) -> None:
    assert [found["idle"] for found in gradients] == [[], [1]]


def test_the_norm_is_that_of_all_shards_and_clips_as_one(gradients: Findings) -> None:
    for found in gradients:
        own, plain, stated = found["norms"]
        assert own == pytest.approx(plain, rel=1e-6)
        assert own == pytest.approx(stated, rel=1e-6)
        assert own > ranks.CLIPPED.grad_clip
        assert found["apart"] < 1e-5


def test_a_sharded_model_computes_the_bits_of_the_whole_one(gradients: Findings) -> None:
    for found in gradients:
        assert found["bits"] == [True, True], "float32, and bfloat16 with recomputed layers"


def test_ranks_that_differ_in_form_are_all_told(gradients: Findings) -> None:
    for rank, found in enumerate(gradients):
        assert (
            f"one form in a round, rank {rank} has ('rt2i', 1, 1, {3 + rank})" in found["refused"]
        )


def test_published_bytes_are_those_of_the_whole_model(whole: Whole, two: Findings) -> None:
    assert two[0]["published"][:2] == [whole.published[0], whole.published[2]]
    assert two[1]["published"] == [None, None, None]
    assert len(set(whole.published)) == 3


def test_two_ranks_go_on_from_what_one_saved_and_read_their_rows_only(
    whole: Whole, two: Findings
) -> None:
    assert two[0]["published"][2] == whole.published[2]
    assert [found["step"] for found in two] == [1, 1]
    for found in two:
        assert found["read"] / whole.size == pytest.approx(0.5, abs=0.01)


def test_three_ranks_go_on_from_what_two_saved(whole: Whole, three: Findings) -> None:
    assert three[0]["published"] == [whole.published[2]]
    assert [found["at"] for found in three] == [[1, 3, {"p0": 2}]] * 3


def test_one_learner_goes_on_from_what_two_saved(folder: Path, whole: Whole, two: Findings) -> None:
    load_learner(whole.holder, folder / "two")  # type: ignore[arg-type]
    assert whole.checksum() == whole.published[1]
    ranks.take_step(whole.optimizer, whole.parameters, 1)
    assert whole.checksum() == whole.published[2]


@pytest.mark.parametrize(("saved", "step"), [("two", 1), ("three", 2)])
def test_a_policy_takes_its_weights_from_a_sharded_checkpoint(
    folder: Path, whole: Whole, three: Findings, saved: str, step: int
) -> None:
    parameters = trainable_parameters(ranks.half_model(), "experts")
    assert load_weights(parameters, folder / saved) == 3
    assert weights.flatten(parameters, version=3)[0].checksum == whole.published[step]


def test_a_sharded_checkpoint_with_a_shard_missing_or_cut_is_refused(
    folder: Path, tmp_path: Path, two: Findings
) -> None:
    names = {path.name for path in (folder / "two").iterdir()}
    shard = "learner-00002-of-00002.safetensors"
    assert names == {
        "learner.json",
        "learner.index.json",
        "learner-00001-of-00002.safetensors",
        shard,
    }
    for path in (folder / "two").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    parameters = trainable_parameters(ranks.half_model(), "experts")
    with pytest.raises(CheckpointError, match="exactly the policy's trainable parameters"):
        load_weights({"one": torch.zeros(2)}, tmp_path)
    data = bytearray((tmp_path / shard).read_bytes())
    data[-8] ^= 1
    (tmp_path / shard).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{shard} must have the digest"):
        load_weights(parameters, tmp_path)
    index = tmp_path / "learner.index.json"
    index.write_text(index.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"index\.json must have [\d,]+ bytes"):
        load_weights(parameters, tmp_path)
    (tmp_path / shard).write_bytes((tmp_path / shard).read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"00002.*truncated"):
        load_weights(parameters, tmp_path)
    (tmp_path / shard).unlink()
    with pytest.raises(CheckpointError, match=f"needs {shard}"):
        load_weights(parameters, tmp_path)


def test_the_index_says_which_rows_lie_where(folder: Path, two: Findings) -> None:
    index = json.loads((folder / "two" / "learner.index.json").read_text())["tensors"]
    norm = next(name for name in index if name.startswith("exp_avg/") and "input_layernorm" in name)
    width = index[norm]["shape"][0]
    files = [f"learner-0000{rank}-of-00002.safetensors" for rank in (1, 2)]
    assert index[norm]["dtype"] == "float32"
    assert index[norm]["rows"] == [[files[0], 0, width // 2], [files[1], width // 2, width]]
    count = index[norm.replace("exp_avg/", "step/")]
    assert (count["shape"], count["rows"]) == ([], [[files[0], 0, 1]])


def test_a_whole_checkpoint_takes_the_place_of_a_sharded_one(tmp_path: Path) -> None:
    stale = tmp_path / "learner-00001-of-00002.safetensors"
    stale.write_bytes(b"of before")
    Whole(tmp_path / "fresh")
    optimizer = MasterAdamW({"w": torch.nn.Parameter(torch.ones(2))}, ranks.STEPS)
    save_learner(ranks.Holder(optimizer), tmp_path)  # type: ignore[arg-type]
    assert not stale.exists()


def test_every_part_counts_once_and_rounds_are_of_one_form() -> None:
    forms = ["draft", "group", "draft", "group", "draft", "group", "group"]
    rounds = ranks.all_rounds(forms, 2)
    assert rounds == [Round((0, 2), 2), Round((1, 3), 2), Round((5, 6), 2), Round((4, 2), 1)]
    for count in (1, 2, 3, 4, 9):
        rounds = ranks.all_rounds(forms, count)
        counted = [part for round_ in rounds for part in round_.parts[: round_.counting]]
        assert sorted(counted) == list(range(7))
        assert all(len(round_.parts) == count for round_ in rounds)
        assert all(len({forms[part] for part in round_.parts}) == 1 for round_ in rounds)
    assert ranks.all_rounds(["group"], 3) == [Round((0, 0, 0), 1)]
    assert ranks.all_rounds([], 2) == []
