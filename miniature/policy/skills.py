"""How good a miniature policy is with pictures: coding, captions, comparisons, edits, refinements.

All of it on held-out combinations, by the oracle from pixels, with the functions of the rollout.
A share over n cases has a standard error of sqrt(p (1 - p) / n): 0.022 for 512 cases at a half.

Example: ``edit_benchmark(load_bagel(folder), FolderTokenizer(folder), n=256)["edit.both"]``
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alphagrpo.eval.edits import (
    LATENT_GRID,
    EvaluationSettings,
    batches,
    draw_requests,
    edit_benchmark,
    encoded_renders,
    share,
)
from alphagrpo.models.bagel import Bagel, load_bagel
from alphagrpo.policy.contexts import Ids, ImageConditions, Prefix, read_prefix
from alphagrpo.policy.loading import FolderTokenizer
from alphagrpo.policy.thinking import Thought, think
from alphagrpo.seeds import derive
from alphagrpo.shapes.edits import (
    NOTHING_WRONG,
    comparison,
    defects,
    names_a_defect,
)
from alphagrpo.shapes.language import SYSTEM_PROMPT, THINK_CLOSE, THINK_OPEN, describe
from alphagrpo.shapes.oracle import judge, read_many
from alphagrpo.shapes.prompts import Wording
from alphagrpo.shapes.specs import random_scene, sample_scene
from alphagrpo.shapes.splits import wordings
from miniature.policy.autoencoder import read_alike
from miniature.policy.changes import spoilt
from miniature.policy.corpus import CAPTION_PROMPT, compare_prompt


def captions(
    model: Bagel,
    tokenizer: FolderTokenizer,
    n: int = 256,
    seed: int = 0,
    settings: EvaluationSettings | None = None,
) -> dict[str, float]:
    """``caption.exact``: share of renders of held-out combinations described word for word."""
    settings, rng = settings or EvaluationSettings(), _generator("caption", seed)
    scenes = [sample_scene(wording.spec, rng) for wording in _prompts(n, seed)]
    right: list[bool] = []
    for part in batches(n, settings.batch):
        requests = _ids(tokenizer, [CAPTION_PROMPT] * len(scenes[part]))
        prefix = read_prefix(model, None, requests, encoded_renders(model, scenes[part]))
        descriptions = _say(model, tokenizer, prefix, _seeds("caption", seed, n)[part], settings)
        right += [a == describe(b) for a, b in zip(descriptions, scenes[part], strict=True)]
    return {"caption.n": float(n), "caption.exact": share(right)}


def comparisons(
    model: Bagel,
    tokenizer: FolderTokenizer,
    n: int = 256,
    seed: int = 0,
    settings: EvaluationSettings | None = None,
) -> dict[str, float]:
    """Comparisons of renders, some spoilt, with held-out plain prompts, as thoughts.

    Returns:
        ``compare.n``; ``compare.exact``, word for word; ``compare.named``, share of the wrong
        pictures of which a real defect is named; ``compare.content``, share of the right ones that
        are called right.
    """
    settings, rng = settings or EvaluationSettings(), _generator("compare", seed)
    prompts = _prompts(n, seed)
    scenes = [spoilt(w.spec, sample_scene(w.spec, rng), rng) for w in prompts]
    reflections: list[str] = []
    for part in batches(n, settings.batch):
        requests = _ids(tokenizer, [compare_prompt(w.text) for w in prompts[part]])
        system, pictures = _one(tokenizer, SYSTEM_PROMPT), encoded_renders(model, scenes[part])
        prefix = read_prefix(model, system, requests, pictures)
        reflections += _say(model, tokenizer, prefix, _seeds("compare", seed, n)[part], settings)
    cases = list(zip(reflections, prompts, scenes, strict=True))
    defect_sets = [defects(wording.spec, scene) for _, wording, scene in cases]
    exact = [text == comparison(wording.spec, scene) for text, wording, scene in cases]
    return {
        "compare.n": float(n),
        "compare.exact": share(exact),
        **{f"compare.{key}": value for key, value in _reflected(reflections, defect_sets).items()},
    }


def compositions(
    model: Bagel,
    tokenizer: FolderTokenizer,
    n: int = 256,
    seed: int = 0,
    settings: EvaluationSettings | None = None,
) -> dict[str, float]:
    """One refinement of the policy's own drafts of held-out plain prompts; never trained.

    Returns:
        ``compose.n``; ``compose.before`` and ``compose.after``, all right in draft and refinement;
        ``compose.mended``, share of the wrong drafts whose refinement is right;
        ``compose.broken``, share of the right ones whose refinement is wrong; ``compose.named``
        and ``compose.content``, the reflections as in :func:`comparisons`.
    """
    settings, prompts = settings or EvaluationSettings(), _prompts(n, seed)
    before: list[bool] = []
    after: list[bool] = []
    reflections: list[str] = []
    defect_sets = []
    for part in batches(n, settings.batch):
        specs = [wording.spec for wording in prompts[part]]
        seeds = _seeds("draft", seed, n)[part]
        draft = draw_requests(
            model, tokenizer, None, [w.text for w in prompts[part]], seeds, settings
        )
        drafts = ImageConditions(draft.path.final, draft.pixels, LATENT_GRID)
        requests = [compare_prompt(wording.text) for wording in prompts[part]]
        seeds = _seeds("refined", seed, n)[part]
        refined = draw_requests(model, tokenizer, drafts, requests, seeds, settings)
        readings = read_many(draft.pixels)
        reflections += _spoken(model, tokenizer, refined.thoughts)
        defect_sets += [defects(*pair) for pair in zip(specs, readings, strict=True)]
        before += [judge(*pair).all_right for pair in zip(specs, readings, strict=True)]
        redone = zip(specs, read_many(refined.pixels), strict=True)
        after += [judge(*pair).all_right for pair in redone]
    was, now = np.array(before), np.array(after)
    return {
        "compose.n": float(n),
        "compose.before": share(was),
        "compose.after": share(now),
        "compose.mended": share(now[~was]),
        "compose.broken": share(~now[was]),
        **{f"compose.{key}": value for key, value in _reflected(reflections, defect_sets).items()},
    }


def round_trips(model: Bagel, n: int = 256, seed: int = 0) -> dict[str, float]:
    """``autoencoder.alike``: share of random scenes still read rightly after encoding and decoding.

    Not of held-out combinations alone: a codec may have seen every shape in every colour.
    """
    rng = _generator("round trip", seed)
    alike = read_alike(model.autoencoder, [random_scene(rng) for _ in range(n)])
    return {"autoencoder.n": float(n), "autoencoder.alike": share(alike)}


def skills(
    model: Bagel,
    tokenizer: FolderTokenizer,
    n: int = 256,
    seed: int = 0,
    settings: EvaluationSettings | None = None,
) -> dict[str, float]:
    """All: round trips, captions, comparisons, edits and untrained refinements, ``n`` of each."""
    return {
        **round_trips(model, n, seed),
        **captions(model, tokenizer, n, seed, settings),
        **comparisons(model, tokenizer, n, seed, settings),
        **edit_benchmark(model, tokenizer, n, seed, settings),
        **compositions(model, tokenizer, n, seed, settings),
    }


def evaluate_skills(folder: str | Path, n: int = 256, seed: int = 0) -> dict[str, float]:
    """:func:`skills` of the policy in ``folder``."""
    return skills(load_bagel(folder), FolderTokenizer(folder), n, seed)


def _reflected(reflections: Sequence[str], defect_sets: Sequence[tuple]) -> dict[str, float]:
    pairs = list(zip(reflections, defect_sets, strict=True))
    return {
        "named": share([names_a_defect(text, wrong) for text, wrong in pairs if wrong]),
        "content": share([text == NOTHING_WRONG for text, wrong in pairs if not wrong]),
    }


def _prompts(n: int, seed: int) -> list[Wording]:
    return list(wordings("heldout", "plain", n, seed))


def _generator(what: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(derive(what, seed))


def _seeds(what: str, seed: int, n: int) -> list[int]:
    return [derive(what, seed, index) for index in range(n)]


def _one(tokenizer: FolderTokenizer, text: str) -> Ids:
    return np.asarray(tokenizer.encode(text), np.int64)


def _ids(tokenizer: FolderTokenizer, texts: Sequence[str]) -> list[Ids]:
    return [_one(tokenizer, text) for text in texts]


def _say(
    model: Bagel,
    tokenizer: FolderTokenizer,
    prefix: Prefix,
    seeds: Sequence[int],
    settings: EvaluationSettings,
) -> list[str]:
    thoughts = think(
        model,
        prefix.full,
        seeds=seeds,
        samples=[0] * len(seeds),
        sampling=settings.sampling,
        max_tokens=settings.max_think_tokens,
    )
    return _spoken(model, tokenizer, thoughts)


def _spoken(model: Bagel, tokenizer: FolderTokenizer, thoughts: Sequence[Thought]) -> list[str]:
    """The texts, without their end and their think tags."""
    texts = [tokenizer.decode((t.ids[:-1] if t.finished else t.ids).tolist()) for t in thoughts]
    return [text.replace(THINK_OPEN, "").replace(THINK_CLOSE, "").strip() for text in texts]
