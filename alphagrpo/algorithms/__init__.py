"""The objective of AlphaGRPO as pure functions: reward, advantage, text and image losses.

Nothing here knows of models, actors or files. Legend of shapes: P prompt (group), G sample of a
group, B sample, L text token, K trained SDE step, N image token, C latent channel per token.
"""

from __future__ import annotations

from alphagrpo.algorithms.advantage import Advantages, group_advantages, step_advantages
from alphagrpo.algorithms.combine import LossWeights, combine, loss_weights
from alphagrpo.algorithms.dvreward import score_verdicts
from alphagrpo.algorithms.format import format_bonus
from alphagrpo.algorithms.image import image_kl, image_loss
from alphagrpo.algorithms.objective import Objective
from alphagrpo.algorithms.rectification import rectify
from alphagrpo.algorithms.rewards import (
    RewardProgram,
    configure,
    load_reward_program,
    register_reward_program,
    reward_program,
    reward_programs,
)
from alphagrpo.algorithms.text import text_loss

__all__ = [
    "Advantages",
    "LossWeights",
    "Objective",
    "RewardProgram",
    "combine",
    "configure",
    "format_bonus",
    "group_advantages",
    "image_kl",
    "image_loss",
    "load_reward_program",
    "loss_weights",
    "rectify",
    "register_reward_program",
    "reward_program",
    "reward_programs",
    "score_verdicts",
    "step_advantages",
    "text_loss",
]
