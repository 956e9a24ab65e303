"""Model folders for engine tests: the repository's, or random ones of the same classes."""

from __future__ import annotations

from pathlib import Path

from services.paths import project_root


def is_trained(name: str) -> bool:
    """Whether the repository has this judge's trained weights."""
    folder = project_root() / "deploy" / "models" / name
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def miniature(name: str, scratch: Path) -> Path:
    """The folder of ``decomposer`` or ``verifier``; made with random weights where it is absent."""
    if is_trained(name):
        return project_root() / "deploy" / "models" / name
    made = scratch / name
    if not made.exists():
        make_random(name, made)
    return made


def make_random(name: str, folder: Path) -> None:
    """Write a miniature judge with random weights."""
    import torch

    from miniature.decomposer import decomposer_model, save_decomposer
    from miniature.judge_tokenizer import judge_tokenizer
    from miniature.verifier.model import save_verifier, verifier_model

    torch.manual_seed(0)
    tokenizer = judge_tokenizer()
    if name == "decomposer":
        save_decomposer(folder, decomposer_model(tokenizer), tokenizer)
    else:
        save_verifier(folder, verifier_model(tokenizer), tokenizer)
