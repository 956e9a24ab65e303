"""A run that real actors finish in seconds: a tiny BAGEL, seven prompts, stand-ins for services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.parts import Part
from alphagrpo.config import RunConfig
from tests.fakes import make_config, make_model, make_prompts

VERIFIER = Part("tests.fakes:make_fake_verifier", {"delay_s": 0.02})
DECOMPOSER = Part("tests.fakes:FakeDecomposer", {})


def write_model(folder: Path) -> Path:
    """A tiny BAGEL on disk, with a tokenizer of single characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    from alphagrpo.models.bagel import save_bagel

    save_bagel(make_model("experts"), folder)
    vocabulary = {f"<{i}>": i for i in range(5)}
    vocabulary |= {letter: i + 5 for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz 0123456")}
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, "?": 39}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(prompt.text for prompt in make_prompts(7)), encoding="utf-8")
    return path


def config_for(name: str, model: Path, prompts: Path, **sections: Any) -> RunConfig:
    """A run of three groups of four; ``num_runners`` and ``rollout`` fill that section."""
    rollout = {
        "group_size": 4,
        "prompts_per_step": 3,
        "num_runners": sections.pop("num_runners", 1),
        "flow": {"num_points": 6, "window": {"length": 3, "allowed": (0, 4)}},
        **sections.pop("rollout", {}),
    }
    return make_config(
        name=name,
        model={"path": str(model), "trainable": "experts"},
        data={"train": str(prompts)},
        rollout=rollout,
        **sections,
    )
