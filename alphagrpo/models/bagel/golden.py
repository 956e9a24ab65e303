"""A folder of golden vectors: model, inputs, expected outputs, tolerances."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel.checkpoint import load_bagel
from alphagrpo.models.bagel.config_fields import read_json
from alphagrpo.models.bagel.model import Bagel
from alphagrpo.models.bagel.sampling import Branches
from alphagrpo.models.unified import Context

Produced = dict[str, Tensor]
"""What a case computed, by the name of the golden tensor it is to agree with."""


@dataclass(frozen=True, slots=True)
class EditContexts:
    """The contexts of editing, batch of one."""

    after_latents: Context
    after_vision: Context
    full: Context
    text_only: Context
    prompt_logits: Tensor
    """[L, V] at the prompt's tokens in the full context."""

    @property
    def branches(self) -> Branches:
        """Guidance branches: all, without the text, without the images."""
        return Branches(self.full, self.after_vision, self.text_only)


class Golden:
    """Inputs by name; outputs are reachable for comparison only, through :meth:`expected`."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.model: Bagel = load_bagel(folder)
        self.info: Mapping[str, dict[str, Any]] = read_json(folder / "cases.json")["tensors"]
        path = folder / "cases.safetensors"
        try:
            self._tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"golden vectors need a whole cases.safetensors; {path}: {error}; fetch it again"
            ) from error
        absent = sorted(self.info.keys() ^ self._tensors.keys())
        if absent:
            raise CheckpointError(
                "cases.json and cases.safetensors must name the same tensors; "
                f"{absent[:4]} are in one of them only; fetch both again"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.info

    def __getitem__(self, name: str) -> Tensor:
        """An input; asking for an output here would be comparing it with itself."""
        if self.info[name]["role"] != "input":
            raise LookupError(f"{name} is an output to be reproduced, not an input")
        return self._tensors[name]

    def expected(self, name: str) -> Tensor:
        """The value an output should have."""
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of any tensor."""
        return tuple(self._tensors[name].shape)

    def meaning(self, name: str) -> str:
        """The tensor's description."""
        return str(self.info[name].get("meaning", ""))

    def args(self, name: str) -> dict[str, Any]:
        """The arguments noted at a tensor."""
        return dict(self.info[name].get("args", {}))

    def outputs(self) -> list[str]:
        """All names that are to be reproduced."""
        return [name for name, info in self.info.items() if info["role"] == "output"]

    def matching(self, pattern: str) -> list[re.Match[str]]:
        """Matches of a regular expression on whole names, in the file's order."""
        matches = (re.fullmatch(pattern, name) for name in self.info)
        return [match for match in matches if match]

    # -- contexts that several cases share

    def framed(self, ids: Tensor) -> Tensor:
        """[L] ids with the framing start and end, as [1, L + 2]."""
        special = self.model.special
        ends = torch.tensor([special.text_start]), torch.tensor([special.text_end])
        return torch.cat([ends[0], ids, ends[1]])[None]

    def read(self, context: Context, ids: Tensor) -> tuple[Context, Tensor]:
        """Read framed ``ids`` [L] after ``context``; hidden states [L + 2, D]."""
        framed = self.framed(ids)
        lengths = torch.tensor([framed.shape[1]])
        context, hidden = self.model.read_text(context, framed, lengths)
        return context, hidden[0]

    @cached_property
    @torch.no_grad()
    def prompt(self) -> Context:
        """After the first prompt."""
        return self.read(self.model.empty_context(1), self["c1.prompt_ids"])[0]

    @cached_property
    @torch.no_grad()
    def latent(self) -> Tensor:
        """The conditioning picture's latents [1, Z, h, w], sampled with the given noise."""
        return self.model.autoencoder.encode(self["c3.pixels"][None], self["c3.posterior_noise"])

    @cached_property
    @torch.no_grad()
    def edit(self) -> EditContexts:
        """Picture as latents, picture through the vision transformer, prompt."""
        model, tokens = self.model, self.model.latents_to_tokens(self.latent)
        first = model.read_latents(model.empty_context(1), tokens, self.grid(self["c3.pixels"]))
        second = model.read_pixels(first, self["c2.pixels"][None])
        full, hidden = self.read(second, self["c2.prompt_ids"])
        text_only, _ = self.read(model.empty_context(1), self["c2.prompt_ids"])
        return EditContexts(first, second, full, text_only, model.text_logits(hidden))

    def grid(self, pixels_or_size: Tensor) -> tuple[int, int]:
        """Latent grid of a picture [..., H, W], or of a size tensor [2] (height, width)."""
        if pixels_or_size.dim() == 1:
            height, width = pixels_or_size.tolist()
        else:
            height, width = pixels_or_size.shape[-2:]
        side = self.model.pixels_per_token
        return height // side, width // side

    def branches(self, run: str) -> Branches:
        """Guidance branches of a run by its name: ``edit...``, else text-to-image."""
        if run.startswith("edit"):
            return self.edit.branches
        # Without images the image-free context is the full one; it matters if image scale > 1.
        return Branches(self.prompt, self.model.empty_context(1), self.prompt)

    def resolution(self, name: str, default: str) -> str:
        """The resolution a tensor's description refers to, such as ``c4.r0``."""
        matches = re.search(r"c4\.r\d+", self.meaning(name))
        return matches[0] if matches else default


def release_order(tokens: Tensor) -> Tensor:
    """An image block [2 + N, ...] from (start, end, tokens) to (start, tokens, end)."""
    return torch.cat([tokens[:1], tokens[2:], tokens[1:2]])


def cache(prefix: str, context: Context, start: int, images: Iterable[int] = ()) -> Produced:
    """Cached keys and values from token ``start`` on as ``<prefix>.layer<i>.k`` and ``.v``.

    ``images`` are the lengths of the image blocks there, one after another; text follows.
    """
    produced = {}
    for i, pair in enumerate(zip(context.keys, context.values, strict=True)):
        for what, tensor in zip("kv", pair, strict=True):
            rest = tensor[0, start:]
            parts = []
            for length in images:
                parts.append(release_order(rest[:length]))
                rest = rest[length:]
            produced[f"{prefix}.layer{i}.{what}"] = torch.cat([*parts, rest])
    return produced
