"""Training of the miniature verifier: a picture and a question in, " yes" or " no" out.

Labels are the oracle's, read from the pixels of training renders; no picture of a policy is used.

Legend of shapes: B pictures, Q questions each, T tokens of a question, S = 9 cells, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from alphagrpo.shapes.grammar import Reading
from alphagrpo.shapes.judge_tokenizer import NO, YES, judge_tokenizer, single_id
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.training import TrainProgress, TrainSettings, TrainState, fit
from alphagrpo.shapes.verifier_heads import (
    CellHead,
    CompareHead,
    CountHead,
    PointHead,
    cell_labels,
    comparisons,
    count_labels,
    pointings,
)
from alphagrpo.shapes.verifier_model import (
    answer_logits,
    image_features,
    save_verifier,
    to_pixels,
    verifier_model,
)
from alphagrpo.shapes.verifier_pictures import training_picture
from alphagrpo.shapes.verifier_questions import predicate_of, training_questions

BATCH = 16
QUESTIONS = 12
STEPS = 12_000
SMOOTHING = 0.02
"""Label smoothing: a reward needs differences between confidences, not 0 and 1."""
HELP = {"cell_loss": 0.5, "count_loss": 0.5, "point_loss": 0.3, "compare_loss": 0.3}
"""Weights of the temporary heads' losses beside the answers'."""
EASY_STEPS, EASY_SHARE = 1200, 0.05
"""The share of one-word questions falls from 1 to this over so many steps. From near misses alone
a fresh model learns little: no single word tells anything about their answers."""
_REVISIT = 40
"""Every second batch asks new questions about the pictures of this many blocks ago."""


class Block(NamedTuple):
    """A block of training pictures and what the oracle reads of them."""

    pixels: Tensor
    """[B, 3, 48, 48] in [-1, 1]."""
    readings: list[Reading]
    cells: Tensor
    """[B, S, 3] index of kind, colour and background; 0 is none, 1 unclear, the rest names."""
    counts: Tensor
    """[B, 35] numbers of objects, see :func:`count_labels`."""


class Batch(NamedTuple):
    """What one step learns from."""

    block: Block
    questions: Tensor
    """[B, Q, T] token ids, padded on the right."""
    answers: Tensor
    """[B, Q] 1 for yes, 0 for no."""
    points: Tensor
    """[N, 4], see :func:`~alphagrpo.shapes.verifier_heads.pointings`."""
    pairs: Tensor
    """[M, 5], see :func:`~alphagrpo.shapes.verifier_heads.comparisons`."""


class Trainee(nn.Module):
    """The verifier and its temporary heads, so that both train and resume together."""

    def __init__(
        self, verifier: Idefics3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.verifier = verifier
        self.cells = CellHead(tokenizer)
        self.counts = CountHead()
        self.points = PointHead()
        self.pairs = CompareHead()

    def losses(
        self, batch: Batch, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(answer log-probabilities [B, Q, V], losses of the temporary heads by name)."""
        block, questions = batch.block, batch.questions
        features = image_features(self.verifier, block.pixels.to(dtype))
        layers: list[Tensor] = []
        logits = answer_logits(
            self.verifier, tokenizer, features, questions, lambda _, x: layers.append(x)
        )
        table = self.verifier.get_input_embeddings().weight
        return logits.log_softmax(dim=-1), {
            "cell_loss": self.cells.loss(features, block.cells, table),
            "count_loss": self.counts.loss(layers, block.counts),
            "point_loss": self.points.loss(layers, batch.points, questions.shape[2]),
            "compare_loss": self.pairs.loss(layers, batch.pairs, questions.shape[2]),
        }


def make_block(seed: int, index: int, size: int) -> Block:
    """The ``index``-th block of training pictures; a function of its arguments."""
    rng = np.random.default_rng([seed, index, 11])
    pictures = np.stack([training_picture(rng)[1] for _ in range(size)])
    readings = read_many(pictures)
    pixels = to_pixels(torch.from_numpy(pictures))
    return Block(pixels, readings, cell_labels(readings), count_labels(readings))


class Batches:
    """Batches by step. Half of them ask new questions about pictures seen a while ago, since
    reading a picture with the oracle costs as much as half a training step.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, size: int) -> None:
        self.pad = int(tokenizer.pad_token_id)
        self._block = lru_cache(maxsize=_REVISIT + 1)(lambda i: make_block(seed, i, size))
        self._encode = lru_cache(maxsize=100_000)(
            lambda text: torch.tensor(tokenizer.encode(text, add_special_tokens=False))
        )

    def questions(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """[B, Q, T] token ids of B lists of Q questions, padded on the right."""
        rows = [self._encode(text) for row in texts for text in row]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        return padded.view(len(texts), len(texts[0]), -1)

    def draw(self, step: int, rng: np.random.Generator) -> Batch:
        """The batch of a step; ``rng`` draws its questions."""
        fresh = step // 2
        block = self._block(fresh if step % 2 == 0 else max(0, fresh - _REVISIT))
        ease = max(EASY_SHARE, 1 - step / EASY_STEPS)
        texts = [training_questions(reading, QUESTIONS, rng, ease) for reading in block.readings]
        answers = [
            [predicate_of(text).holds(reading) for text in row]
            for row, reading in zip(texts, block.readings, strict=True)
        ]
        truths = torch.tensor(answers, dtype=torch.float32)
        points = pointings(texts, block.readings)
        return Batch(block, self.questions(texts), truths, points, comparisons(texts, points))


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
    bf16: bool = True,
    stop_after: int | None = None,
) -> TrainState:
    """Train a verifier and write it to ``output`` in the layout vLLM and transformers load.

    Without ``minutes`` and ``steps`` it takes :data:`STEPS` steps. ``checkpoint`` is the folder of
    the resumable state (default ``output/training``).
    """
    tokenizer = judge_tokenizer()
    torch.manual_seed(seed)
    trainee = Trainee(verifier_model(tokenizer), tokenizer)
    batches = Batches(tokenizer, seed, batch)
    yes, no = single_id(tokenizer, YES), single_id(tokenizer, NO)
    dtype = torch.bfloat16 if bf16 else torch.float32

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        drawn = batches.draw(step, rng)
        log_p, helps = trainee.losses(drawn, tokenizer, dtype)
        target = drawn.answers * (1 - SMOOTHING) + SMOOTHING / 2
        answer_loss = -(target * log_p[..., yes] + (1 - target) * log_p[..., no]).mean()
        right = ((log_p[..., yes] > log_p[..., no]) == (drawn.answers > 0.5)).float()
        figures = {
            "answer_loss": float(answer_loss.detach()),
            **{name: float(value.detach()) for name, value in helps.items()},
            "agreement": float(right.mean()),
            "quality_agreement": float(right[:, :3].mean()),
        }
        return answer_loss + sum(HELP[name] * value for name, value in helps.items()), figures

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
