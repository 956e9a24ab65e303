"""The policy a config names: its type, its adapters, what trains, and its tokenizer's ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from alphagrpo.config import RunConfig
from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel.checkpoint import load_bagel, random_bagel, save_bagel
from alphagrpo.models.bagel.config import tiny_config
from alphagrpo.models.lora import add_lora, lora_state
from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.loading import FolderTokenizer, load_policy
from tests.fakes import make_config


def write_tokenizer(folder: Path) -> None:
    """Words and framing tokens; left to itself it would frame every text."""
    words = {"red": 0, "circle": 1, "<unk>": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    framing = [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<think>")]
    tokenizer.add_special_tokens(framing)
    tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 3), ("<|im_end|>", 4)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_bagel(random_bagel(tiny_config(), 0), path)
    write_tokenizer(path)
    return path


def config_of(folder: Path, trainable: str, dtype: str = "float32", seed: int = 9) -> RunConfig:
    section = {"path": str(folder), "trainable": trainable, "device": "cpu", "dtype": dtype}
    return make_config(model=section | {"lora": {"rank": 2, "alpha": 4.0}}, seed=seed)


def test_adapters_start_from_the_runs_seed_and_train_alone(folder: Path) -> None:
    model = load_policy(config_of(folder, "lora")).model
    expected = load_bagel(folder)
    add_lora(expected, FAMILY.takes_adapter, rank=2, alpha=4.0, seed=9)
    state, other = lora_state(model), lora_state(expected)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(state)


def test_experts_train_in_the_type_of_the_config_and_nothing_else_does(folder: Path) -> None:
    model = load_policy(config_of(folder, "experts", "bfloat16")).model
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.bfloat16}
    assert {name for name, _ in model.named_parameters() if FAMILY.is_expert_weight(name)} == set(
        trained
    )
    assert not lora_state(model)


def test_text_is_neither_framed_on_the_way_in_nor_cleaned_on_the_way_out(folder: Path) -> None:
    tokenizer = load_policy(config_of(folder, "experts")).tokenizer
    assert tokenizer.encode("red circle") == [0, 1]
    assert tokenizer.encode("<think>red") == [5, 0]
    assert tokenizer.decode([5, 0, 4]).split() == ["<think>", "red", "<|im_end|>"]


def test_a_tokenizer_that_is_missing_or_broken_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs tokenizer\.json, .* does not exist; copy it"):
        FolderTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"must be a tokenizer file \(.*fetch it again"):
        FolderTokenizer(tmp_path)
