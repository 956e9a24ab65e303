"""Training of the miniature verifier: a picture and a question in, " yes", " no" or a grade out.

Legend of shapes: B pictures, A yes/no answers and G grade tokens per picture, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from miniature.judge_tokenizer import NO, YES, single_id, verifier_tokenizer
from miniature.training import TrainProgress, TrainSettings, TrainState, fit
from miniature.verifier.batches import IGNORED, Batch, Batches, Block
from miniature.verifier.heads import (
    CellHead,
    CompareHead,
    CountHead,
    FlawHead,
    NounHead,
)
from miniature.verifier.model import (
    image_features,
    packed_logits,
    save_verifier,
    verifier_model,
)
from miniature.verifier.prompt_heads import DemandHead, ReadHead

BATCH = 8
STEPS = 13_000
SIGHT_STEPS, ASK_EARLY, ASK_LATE = 2400, 5, 2
"""In so many first steps only every fifth asks questions, later every second; the others teach the
vision tower alone, at a quarter of the cost. At first a question is of no use, since there is
nothing to look at; later the flaws of pictures are what takes most examples."""
SMOOTHING = 0.02
"""Label smoothing: a reward needs differences between confidences, not 0 and 1."""
GRADE_WEIGHT = 0.15
"""Weight of the grades' loss beside that of the yes/no answers."""
HELP = {
    "cell_loss": 0.5,
    "flaw_loss": 1.0,
    "count_loss": 0.5,
    "point_loss": 0.3,
    "number_loss": 0.3,
    "compare_loss": 0.3,
    "read_loss": 0.2,
    "demand_loss": 0.3,
}
"""Weights of the temporary heads' losses beside the answers'."""


class Trainee(nn.Module):
    """The verifier and its temporary heads, so that both train and resume together."""

    def __init__(
        self, verifier: Idefics3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.verifier = verifier
        self.cells = CellHead(tokenizer)
        self.flaws = FlawHead()
        self.counts = CountHead()
        self.nouns = NounHead()
        self.pairs = CompareHead()
        self.read = ReadHead()
        self.demands = DemandHead()

    def sight(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """(image tokens [B, 9, d], losses of the heads that ask the image tokens alone)."""
        features = image_features(self.verifier, block.pixels.to(dtype))
        table = self.verifier.get_input_embeddings().weight
        return features, {
            "cell_loss": self.cells.loss(features, block.cells, table),
            "flaw_loss": self.flaws.loss(features, block.flaws),
        }

    def losses(
        self, batch: Batch, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(answer log-probabilities [B, A + G, V], losses of the temporary heads by name)."""
        features, helps = self.sight(batch.block, dtype)
        layers: list[Tensor] = []
        logits = packed_logits(
            self.verifier,
            tokenizer,
            features,
            batch.groups,
            batch.at,
            lambda _, x: layers.append(x),
        )
        point_loss, number_loss = self.nouns.loss(layers, batch.nouns)
        marks = batch.quotes + torch.tensor([0, 1])
        return logits.log_softmax(dim=-1), helps | {
            "count_loss": self.counts.loss(layers, batch.block.counts),
            "point_loss": point_loss,
            "number_loss": number_loss,
            "compare_loss": self.pairs.loss(layers, batch.pairs),
            "read_loss": self.read.loss(layers, batch.quotes, batch.demands),
            "demand_loss": self.demands.loss(layers, marks, batch.truths),
        }


def answer_losses(
    log_p: Tensor, batch: Batch, yes: int, no: int
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """(yes/no loss, grades' loss, figures to show) of log-probabilities [B, A + G, V]."""
    num = batch.answers.shape[1]
    answers, grades = log_p[:, :num], log_p[:, num:]
    target = batch.answers * (1 - SMOOTHING) + SMOOTHING / 2
    answer_loss = -(target * answers[..., yes] + (1 - target) * answers[..., no]).mean()
    grade_loss = F.nll_loss(grades.flatten(0, 1), batch.grades.flatten(), ignore_index=IGNORED)
    right = ((answers[..., yes] > answers[..., no]) == (batch.answers > 0.5)).float()
    known = batch.grades != IGNORED
    # Two grades per picture, of quality and of content.
    exact = ((grades.argmax(dim=-1) == batch.grades) | ~known).view(len(known), 2, -1).all(dim=-1)
    whole = num - 1
    figures = {
        "answer_loss": float(answer_loss.detach()),
        "grade_loss": float(grade_loss.detach()),
        "agreement": float(right[:, :whole].mean()),
        "whole": float(right[:, whole:].mean()),
        "whole_yes": float(batch.answers[:, whole:].mean()),
        "clean_grade": float(exact[:, 0].float().mean()),
        "content_grade": float(exact[:, 1].float().mean()),
    }
    return answer_loss, grade_loss, figures


def pretrain_verifier(
    output: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    checkpoint: Path | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    batch: int = BATCH,
    bf16: bool = False,
    stop_after: int | None = None,
) -> TrainState:
    """Train a verifier and write it to ``output`` in the layout vLLM and transformers load.

    Without ``minutes`` and ``steps`` it takes :data:`STEPS` steps. ``checkpoint`` is the folder of
    the resumable state (default ``output/training``). ``bf16`` pays on a CPU with bfloat16 matrix
    units and is many times slower on others.
    """
    tokenizer = verifier_tokenizer()
    torch.manual_seed(seed)
    trainee = Trainee(verifier_model(tokenizer), tokenizer)
    batches = Batches(tokenizer, seed, batch)
    yes, no = single_id(tokenizer, YES), single_id(tokenizer, NO)
    dtype = torch.bfloat16 if bf16 else torch.float32

    latest: dict[str, float] = {}

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step % (ASK_EARLY if step < SIGHT_STEPS else ASK_LATE):
            total = torch.zeros(())
            _, helps = trainee.sight(batches.block(step), dtype)
        else:
            questions = batches.batch(step, rng)
            log_p, helps = trainee.losses(questions, tokenizer, dtype)
            answer_loss, grade_loss, figures = answer_losses(log_p, questions, yes, no)
            total = answer_loss + GRADE_WEIGHT * grade_loss
            latest.update(figures)
        # A step that asks nothing shows the figures of the last one that did.
        latest.update({name: float(value.detach()) for name, value in helps.items()})
        return total + sum(HELP[name] * value for name, value in helps.items()), dict(latest)

    settings = TrainSettings(
        steps=STEPS if steps is None and minutes is None else steps,
        minutes=minutes,
        learning_rate=1.2e-3,
        warmup=150,
        seed=seed,
        checkpoint=checkpoint or output / "training",
    )
    state = fit(trainee, loss, settings, resume=resume, progress=progress, stop_after=stop_after)
    save_verifier(output, trainee.verifier, tokenizer)
    return state
