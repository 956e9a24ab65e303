"""How good a miniature policy is: the oracle's figures on held-out prompts, family by family.

Thinking and drawing are those of the rollout, with Euler steps, so that the figures are what the
held-out evaluation of a run shows before its first update.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alphagrpo.eval.edits import LATENT_GRID, EvaluationSettings
from alphagrpo.models.bagel import Bagel, load_bagel
from alphagrpo.models.bagel.sampling import to_bytes
from alphagrpo.policy.contexts import Branches, read_prefix, read_thoughts
from alphagrpo.policy.denoising import denoise, start_noise
from alphagrpo.policy.loading import FolderTokenizer
from alphagrpo.policy.thinking import think
from alphagrpo.seeds import derive
from alphagrpo.shapes.language import SYSTEM_PROMPT, thought, thought_is_right
from alphagrpo.shapes.oracle import judge_many
from alphagrpo.shapes.prompts import Sort
from alphagrpo.shapes.specs import Spec
from alphagrpo.shapes.splits import prompts, spec_of
from alphagrpo.shapes.world import GRID
from alphagrpo.types import Prompt


@dataclass(frozen=True, slots=True)
class ThoughtAndPicture:
    """One prompt's thought and picture."""

    thought: str
    pixels: NDArray[np.uint8]


@torch.no_grad()
def draw_many(
    model: Bagel,
    tokenizer: FolderTokenizer,
    texts: Sequence[str],
    seeds: Sequence[int],
    settings: EvaluationSettings,
    thoughts: Sequence[str] | None = None,
) -> list[ThoughtAndPicture]:
    """Think about and draw each text; with ``thoughts`` these are read in place of its own."""
    system = np.asarray(tokenizer.encode(SYSTEM_PROMPT), np.int64)
    samples = [0] * len(texts)
    ids = [np.asarray(tokenizer.encode(text), np.int64) for text in texts]
    prefix = read_prefix(model, system, ids)
    if thoughts is None:
        sampled = think(
            model,
            prefix.full,
            seeds=seeds,
            samples=samples,
            sampling=settings.sampling,
            max_tokens=settings.max_think_tokens,
        )
        rows, finished = [t.ids for t in sampled], [t.finished for t in sampled]
    else:
        rows = [np.asarray(tokenizer.encode(text), np.int64) for text in thoughts]
        finished = [False] * len(rows)
    context = read_thoughts(model, prefix.full, rows, finished).context
    free = prefix.text_free
    branches = Branches.of(context, free.expand(len(texts)) if free.batch == 1 else free)
    shape = (GRID * GRID, model.latent_channels)
    noise = start_noise(seeds, samples, shape, model.device)
    final = denoise(model, branches, settings.plan, noise, LATENT_GRID).final
    pictures = to_bytes(model.decode_latents(final, LATENT_GRID)).cpu().numpy()
    inner = [row[:-1] if done else row for row, done in zip(rows, finished, strict=True)]
    words = [tokenizer.decode(row.tolist()) for row in inner]
    return [ThoughtAndPicture(*pair) for pair in zip(words, pictures, strict=True)]


def _draw_all(
    model: Bagel,
    tokenizer: FolderTokenizer,
    prompt_set: Sequence[Prompt],
    seed: int,
    settings: EvaluationSettings,
    right_thoughts: bool,
) -> list[ThoughtAndPicture]:
    results: list[ThoughtAndPicture] = []
    for start in range(0, len(prompt_set), settings.batch):
        part = prompt_set[start : start + settings.batch]
        seeds = [derive("evaluation", seed, prompt.id) for prompt in part]
        words = [thought(spec_of(prompt)) for prompt in part] if right_thoughts else None
        results += draw_many(model, tokenizer, [p.text for p in part], seeds, settings, words)
    return results


def _figures(specs: Sequence[Spec], results: Sequence[ThoughtAndPicture]) -> dict[str, float]:
    """Shares over one sort of prompts; see :func:`evaluate_policy`."""
    judged = judge_many(specs, np.stack([one.pixels for one in results]))
    right = np.array([thought_is_right(r.thought, s) for r, s in zip(results, specs, strict=True)])
    good = np.array([one.all_right for one in judged])
    families: dict[str, list[bool]] = defaultdict(list)
    for spec, ok in zip(specs, good, strict=True):
        families[spec.family].append(bool(ok))
    return {
        "n": len(specs),
        "all_right": float(good.mean()),
        "strict": float(np.mean([one.strict for one in judged])),
        "extra": float(np.mean([one.extra for one in judged])),
        "clean": float(np.mean([one.clean for one in judged])),
        "thought_right": float(right.mean()),
        "all_right_given_right_thought": float(good[right].mean()) if right.any() else math.nan,
        **{f"all_right_{name}": float(np.mean(oks)) for name, oks in sorted(families.items())},
    }


SORTS: tuple[tuple[str, Sort, bool], ...] = (
    ("plain", "plain", False),
    ("thought", "thought", False),
    ("told", "thought", True),
)
"""(name in the figures, sort of prompts, whether the right thought is read in place of its own)."""


def evaluate_policy(
    folder: str | Path,
    n: int = 256,
    seed: int = 0,
    *,
    settings: EvaluationSettings | None = None,
    right_thoughts: bool = True,
    keep: Callable[[str, Sequence[Prompt], Sequence[ThoughtAndPicture]], None] | None = None,
) -> dict[str, float]:
    """The oracle's figures of the policy in ``folder`` on held-out prompts.

    Args:
        folder: a checkpoint folder with tokenizer.
        n: prompts of each sort; 256 have a standard error of 3 points.
        seed: of prompts, thoughts and noise.
        settings: how thoughts are sampled and pictures drawn.
        right_thoughts: also draw the thought prompts after the right thought, under ``told``.
        keep: called with each sort's name, prompts, and thoughts with pictures.

    Returns:
        For ``plain``, ``thought`` and ``told``, as ``plain.n`` and so on: ``n``; ``all_right``, the
        share of pictures which hold all that was asked; ``strict``, and nothing else; ``extra``,
        with things too many; ``clean``, without flaws; ``thought_right``;
        ``all_right_given_right_thought`` (NaN where no thought was right); and
        ``all_right_<family>``.
    """
    model, tokenizer = load_bagel(folder), FolderTokenizer(folder)
    settings = settings or EvaluationSettings()
    figures: dict[str, float] = {"seed": seed, "guidance": settings.guidance.text_scale}
    for name, sort, is_right in SORTS:
        if is_right and not right_thoughts:
            continue
        prompt_set = prompts("heldout", sort, n, seed)
        results = _draw_all(model, tokenizer, prompt_set, seed, settings, is_right)
        shares = _figures([spec_of(prompt) for prompt in prompt_set], results)
        figures |= {f"{name}.{key}": value for key, value in shares.items()}
        if keep is not None:
            keep(name, prompt_set, results)
    return figures
