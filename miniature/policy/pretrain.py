"""Pre-training of the miniature policy: a BAGEL of a few million parameters with general skills.

::

    pretrain_policy("deploy/models/policy", minutes=40)

First the autoencoder (:mod:`miniature.policy.autoencoder`), then the two experts:
velocity error on pictures and cross-entropy on thoughts, captions, comparisons and edits
(:mod:`miniature.policy.objective`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from alphagrpo.models.bagel import Bagel, BagelConfig, load_bagel, random_bagel, save_bagel
from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.checkpoint import FLOAT32_MODULES, TEXT_HEAD
from alphagrpo.models.bagel.config import AutoencoderConfig, LlmConfig, SpecialIds, VitConfig
from alphagrpo.shapes.specs import random_scene
from alphagrpo.shapes.world import CELL, SIZE
from miniature.policy.autoencoder import pretrain_autoencoder
from miniature.policy.autoencoder_data import CROWDED
from miniature.policy.cell_heads import look_at_own_cell
from miniature.policy.corpus import Corpus, Encode
from miniature.policy.latent_table import LatentTable
from miniature.policy.objective import PolicyObjective, PolicyRecipe
from miniature.tokenizer import (
    IM_END,
    IM_START,
    VISION_END,
    VISION_START,
    build_tokenizer,
)
from miniature.training import TrainProgress, TrainSettings, fit

log = logging.getLogger(__name__)

FROM_SCRATCH: tuple[float, int] = (45.0, 5000)
"""Minutes and steps of the policy; the first bound ends the run, so that a faster machine is done
sooner and not with another model. With the autoencoder and the tables in between below 90 minutes.
"""
CONTINUED: tuple[float, None] = (32.0, None)
"""The same of a run that starts from trained weights."""
CONTINUED_RATE = 1e-3
"""Learning rate of a run that starts from trained weights."""


def miniature_config(
    vocabulary: int, special: SpecialIds, autoencoder: AutoencoderConfig
) -> BagelConfig:
    """The miniature's shape: 4 layers of width 192, twice, and a 2-layer vision transformer."""
    return BagelConfig(
        llm=LlmConfig(
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            vocab_size=vocabulary,
            rope_theta=1e4,
        ),
        vit=VitConfig(
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=3,
            patch_size=CELL,
            image_size=SIZE,
        ),
        special=special,
        autoencoder=autoencoder,
        max_latent_size=8,
        vit_max_num_patch_per_side=SIZE // CELL,
    )


def special_ids(tokenizer: PreTrainedTokenizerFast) -> SpecialIds:
    """Ids of BAGEL's four framing tokens."""
    bos, eos, start, end = (
        int(tokenizer.vocab[name]) for name in (IM_START, IM_END, VISION_START, VISION_END)
    )
    return SpecialIds(bos_token_id=bos, eos_token_id=eos, start_of_image=start, end_of_image=end)


def encoder(tokenizer: PreTrainedTokenizerFast) -> Encode:
    """Text to ids without framing; quicker than the tokenizer's own call."""
    core = tokenizer.backend_tokenizer
    return lambda text: core.encode(text, add_special_tokens=False).ids


def pretrain_policy(
    output: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    autoencoder_minutes: float | None = None,
    autoencoder_steps: int | None = None,
    start: str | Path | None = None,
    copies: bool = True,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[str, TrainProgress], None] | None = None,
    recipe: PolicyRecipe | None = None,
    stop_after: int | None = None,
) -> Bagel:
    """Train the miniature policy and write its folder in the official BAGEL layout.

    Args:
        output: folder of the checkpoint; ``training/`` in it holds the resumable state.
        minutes: time budget of the policy.
        steps: its steps; the first bound ends the run. Where neither is given, 45 minutes and
            5,000 steps; 32 minutes with ``start``.
        autoencoder_minutes: time budget of the autoencoder before it.
        autoencoder_steps: its steps; where neither is given, ``pretrain_autoencoder``'s bounds.
        start: a policy's folder to continue from, its autoencoder included, at a lower rate.
        copies: put in heads that look at their own cell, and begin with copies of pictures; False
            for a start that can copy already.
        seed: of weights, data and noise.
        resume: continue from ``training/`` where there is something.
        progress: called with the stage (``autoencoder``, ``policy``) and the state of its run.
        recipe: batch sizes, loss weights, rates.
        stop_after: interrupt after so many policy steps, for tests of resumption.
    """
    output, recipe = Path(output), recipe or PolicyRecipe()
    tokenizer = build_tokenizer()
    if minutes is None and steps is None:
        minutes, steps = FROM_SCRATCH if start is None else CONTINUED

    def tell(stage: str) -> Callable[[TrainProgress], None] | None:
        return None if progress is None else lambda state: progress(stage, state)

    if start is not None:
        model = load_bagel(start)
    else:
        autoencoder = pretrain_autoencoder(
            steps=autoencoder_steps,
            minutes=autoencoder_minutes,
            seed=seed,
            checkpoint=output / "training" / "autoencoder",
            resume=resume,
            progress=tell("autoencoder"),
            pool=recipe.pool_pictures,
        )
        model = untrained_policy(tokenizer, autoencoder, seed)
    patch, pictures = model.config.latent_patch_size, recipe.table_pictures
    table = LatentTable.measure(model.autoencoder, patch, seed, pictures)
    if copies:
        start_copying(model, table, seed, pictures)
    else:
        recipe = replace(recipe, copy_steps=0)
    corpus = Corpus(encoder(tokenizer), model.special)
    objective = PolicyObjective(model, corpus, table, recipe)
    settings = TrainSettings(
        steps=steps,
        minutes=minutes,
        learning_rate=recipe.learning_rate if start is None else CONTINUED_RATE,
        ema=recipe.ema,
        seed=seed,
        checkpoint=output / "training" / "policy",
    )
    fit(
        model,
        objective,
        settings,
        resume=resume,
        progress=tell("policy"),
        stop_after=stop_after,
    )
    save_policy(model, tokenizer, output)
    return model


def untrained_policy(
    tokenizer: PreTrainedTokenizerFast, autoencoder: Autoencoder, seed: int
) -> Bagel:
    """A miniature with random experts round a trained autoencoder."""
    config = miniature_config(len(tokenizer), special_ids(tokenizer), autoencoder.config)
    model = random_bagel(config, seed)
    model.set_autoencoder(autoencoder)
    return model


def start_copying(model: Bagel, table: LatentTable, seed: int, pictures: int) -> None:
    """Put in the heads that look at their own cell, fitted to crowded pictures."""
    rng = np.random.default_rng([seed, pictures])
    crowded = [random_scene(rng, CROWDED) for _ in range(min(pictures, 200))]
    look_at_own_cell(model, table(crowded))


def save_policy(model: Bagel, tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write model, autoencoder, configs and tokenizer as one folder of the official layout.

    As in the release, all weights but the heads' are stored in bfloat16; ``model`` is left with
    the values that were stored.
    """
    for name, parameter in model.named_parameters():
        if not name.startswith((TEXT_HEAD, *FLOAT32_MODULES)):
            parameter.data = parameter.data.to(torch.bfloat16)
    save_bagel(model, folder)
    model.float()
    tokenizer.save_pretrained(folder)
    log.info("wrote %d parameters to %s", sum(p.numel() for p in model.parameters()), folder)
