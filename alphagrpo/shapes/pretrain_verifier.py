"""Training of the miniature verifier: a picture and a question in, " yes" or " no" out.

Labels are the oracle's, read from the pixels of training renders; no picture of a policy is used.
Beside the answers, a temporary linear head names what the oracle sees in each cell from that
cell's image token: it gives the vision tower something to learn before the text part can ask.

Legend of shapes: B pictures, Q questions each, T tokens of a question, S = 9 cells, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from alphagrpo.shapes.grammar import Reading
from alphagrpo.shapes.judge_tokenizer import NO, YES, judge_tokenizer, single_id
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.training import TrainProgress, TrainSettings, TrainState, fit
from alphagrpo.shapes.verifier_model import (
    IMAGE_TOKENS,
    WIDTH,
    answer_logits,
    image_features,
    save_verifier,
    to_pixels,
    verifier_model,
)
from alphagrpo.shapes.verifier_pictures import training_picture
from alphagrpo.shapes.verifier_questions import predicate_of, training_questions
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, GRID, KINDS

BATCH = 16
QUESTIONS = 12
STEPS = 6000
SMOOTHING = 0.02
"""Label smoothing: a reward needs differences between confidences, not 0 and 1."""
CELL_WEIGHT = 0.3
"""Weight of the temporary cell loss."""
EASY_STEPS, EASY_SHARE = 1200, 0.1
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


def cell_labels(readings: Sequence[Reading]) -> Tensor:
    """[B, S, 3] what is in each cell, and the background, as classes of :class:`CellHead`."""

    def index(name: str | None, names: Sequence[str]) -> int:
        return 1 if name is None else 2 + names.index(name)

    labels = torch.zeros(len(readings), IMAGE_TOKENS, 3, dtype=torch.long)
    for row, reading in enumerate(readings):
        labels[row, :, 2] = index(reading.background, BACKGROUND_NAMES)
        for seen in reading.objects:
            cell = seen.row * GRID + seen.col
            labels[row, cell, 0] = index(seen.kind, KINDS)
            labels[row, cell, 1] = index(seen.colour, COLOUR_NAMES)
    return labels


class CellHead(nn.Module):
    """Names a cell's kind, colour and background from its image token; not part of the saved model.

    The prototype of each name is the embedding of its word, so that an image token comes to lie
    where the words for what it shows lie: a question's words then find it by likeness alone.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.words = [
            torch.tensor([single_id(tokenizer, f" {name}") for name in names])
            for names in (KINDS, COLOUR_NAMES, BACKGROUND_NAMES)
        ]
        self.others = nn.Parameter(torch.randn(len(self.words), 2, WIDTH) * 0.3)
        """Prototypes of "none" and "unclear"."""
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    def loss(self, features: Tensor, labels: Tensor, table: Tensor) -> Tensor:
        """Mean cross-entropy for features [B, S, d], labels [B, S, 3], embeddings [V, d]."""
        flat = features.float().flatten(0, 1)
        losses = []
        for index, words in enumerate(self.words):
            prototypes = torch.cat([self.others[index], table[words]])
            logits = self.log_scale.exp() * flat @ prototypes.T
            losses.append(F.cross_entropy(logits, labels[..., index].flatten()))
        return torch.stack(losses).mean()


class Trainee(nn.Module):
    """The verifier and its temporary head, so that both train and resume together."""

    def __init__(
        self, verifier: Idefics3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.verifier = verifier
        self.head = CellHead(tokenizer)


def make_block(seed: int, index: int, size: int) -> Block:
    """The ``index``-th block of training pictures; a function of its arguments."""
    rng = np.random.default_rng([seed, index, 11])
    pictures = np.stack([training_picture(rng)[1] for _ in range(size)])
    readings = read_many(pictures)
    return Block(to_pixels(torch.from_numpy(pictures)), readings, cell_labels(readings))


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

    def draw(self, step: int, rng: np.random.Generator) -> tuple[Block, Tensor, Tensor]:
        """(pictures, questions [B, Q, T], answers [B, Q] as 0 or 1) of a step."""
        fresh = step // 2
        block = self._block(fresh if step % 2 == 0 else max(0, fresh - _REVISIT))
        ease = max(EASY_SHARE, 1 - step / EASY_STEPS)
        texts = [training_questions(reading, QUESTIONS, rng, ease) for reading in block.readings]
        answers = [
            [predicate_of(text).holds(reading) for text in row]
            for row, reading in zip(texts, block.readings, strict=True)
        ]
        return block, self.questions(texts), torch.tensor(answers, dtype=torch.float32)


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
    table = trainee.verifier.get_input_embeddings().weight
    dtype = torch.bfloat16 if bf16 else torch.float32

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        block, questions, answers = batches.draw(step, rng)
        features = image_features(trainee.verifier, block.pixels.to(dtype))
        logits = answer_logits(trainee.verifier, tokenizer, features, questions)
        log_p = logits.log_softmax(dim=-1)
        target = answers * (1 - SMOOTHING) + SMOOTHING / 2
        answer_loss = -(target * log_p[..., yes] + (1 - target) * log_p[..., no]).mean()
        cell_loss = trainee.head.loss(features, block.cells, table)
        guessed = (log_p[..., yes] > log_p[..., no]).float()
        figures = {
            "answer_loss": float(answer_loss.detach()),
            "cell_loss": float(cell_loss.detach()),
            "agreement": float((guessed == answers).float().mean()),
            "quality_agreement": float((guessed == answers)[:, :3].float().mean()),
        }
        return answer_loss + CELL_WEIGHT * cell_loss, figures

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
