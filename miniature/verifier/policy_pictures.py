"""A policy's own pictures, on which a verifier is measured. Nothing is ever trained on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alphagrpo.errors import BadImage
from alphagrpo.shapes.specs import Spec
from alphagrpo.shapes.splits import spec_of
from alphagrpo.shapes.world import SIZE
from alphagrpo.types import Prompt
from miniature.policy.evaluate import ThoughtAndPicture, evaluate_policy


class PictureSet(NamedTuple):
    """Pictures to measure a verifier on, and their prompts as far as these are known."""

    pictures: NDArray[np.uint8]
    """[N, 48, 48, 3]."""
    specs: list[Spec] | None = None
    prompts: list[str] | None = None

    def first(self, n: int) -> PictureSet:
        """At most the first ``n`` of them."""
        return PictureSet(
            self.pictures[:n],
            None if self.specs is None else self.specs[:n],
            None if self.prompts is None else self.prompts[:n],
        )


def draw_pictures(policy: Path, n: int, seed: int) -> PictureSet:
    """``n`` pictures a policy draws for held-out prompts, half of them riddles.

    As in the policy's own evaluation: 16 points, guidance 2, its own thoughts.
    """
    kept: list[tuple[Prompt, ThoughtAndPicture]] = []

    def keep(_: str, prompts: Sequence[Prompt], results: Sequence[ThoughtAndPicture]) -> None:
        kept.extend(zip(prompts, results, strict=True))

    evaluate_policy(policy, (n + 1) // 2, seed, right_thoughts=False, keep=keep)
    kept = kept[:n]
    return PictureSet(
        np.stack([result.pixels for _, result in kept]),
        [spec_of(prompt) for prompt, _ in kept],
        [prompt.text for prompt, _ in kept],
    )


def save_pictures(folder: Path, saved: PictureSet) -> None:
    """Write PNG files and, where known, ``specs.json`` and ``prompts.json`` in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(saved.pictures):
        Image.fromarray(picture).save(folder / f"{index:05d}.png")
    if saved.specs is not None:
        (folder / "specs.json").write_text(json.dumps([spec.to_json() for spec in saved.specs]))
    if saved.prompts is not None:
        (folder / "prompts.json").write_text(json.dumps(saved.prompts))


def load_pictures(folder: Path) -> PictureSet:
    """The PNG files of a folder in order of their names, and what is written beside them.

    Raises:
        BadImage: a folder without pictures, or pictures of another shape.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise BadImage(f"a folder of pictures holds PNG files, got none in {folder}; draw some")
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    if pictures.shape[1:] != (SIZE, SIZE, 3):
        raise BadImage(f"pictures are {SIZE} x {SIZE}, got {pictures.shape[1:3]}; resize them")
    specs, prompts = folder / "specs.json", folder / "prompts.json"
    return PictureSet(
        pictures,
        [Spec.from_json(value) for value in json.loads(specs.read_text())]
        if specs.exists()
        else None,
        json.loads(prompts.read_text()) if prompts.exists() else None,
    )
