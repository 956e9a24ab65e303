"""Batches of the verifier's training: pictures, questions in three packed groups, and their labels.

Labels are the oracle's, read from the pixels of training renders; no picture of a policy is used.

Legend of shapes: B pictures, Q questions each, T tokens of a question, S = 9 cells, A yes/no
answers and G grade tokens per picture, N labelled nouns, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from alphagrpo.shapes.grammar import QUALITY_TEXT, Reading
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.prompts import Sort, Wording
from alphagrpo.shapes.specs import Spec
from alphagrpo.shapes.world import pick
from miniature.pixels import to_pixels
from miniature.verifier.heads import (
    cell_labels,
    comparisons,
    count_labels,
    flaw_labels,
    named,
    namings,
    placed,
)
from miniature.verifier.model import PREFIX
from miniature.verifier.pictures import training_picture
from miniature.verifier.prompt_heads import demand_labels, prompt_nouns, truth_labels
from miniature.verifier.prompts import prompt_about
from miniature.verifier.questions import predicate_of, semantic_question
from miniature.verifier.texts import (
    GRADE_CONTENT_TEMPLATE,
    GRADE_QUALITY_TEXT,
    WHOLE_TEMPLATE,
    grade,
    quality_grade,
)

ABOUT_THINGS, ABOUT_PLACES = 5, 2
"""Questions per picture without and with a relation; packed apart, since they differ in length.
Beside them stand one of the three questions of quality, one about a whole prompt and both grades.
"""
RIGHT_SHARE = 0.75
"""How often a prompt that holds is looked for; for many a picture there is none."""
EASY_STEPS, EASY_SHARE = 3200, 0.05
"""The share of one-word questions falls from 1 to this over so many steps. From near misses alone
a fresh model learns little: no single word tells anything about their answers."""
IGNORED = -100
_GRADE_TOKENS = 3
"""Tokens of an answer that is a grade: one or two digits and the end."""


class Block(NamedTuple):
    """A block of training pictures and what the oracle reads of them."""

    pixels: Tensor
    """[B, 3, 48, 48] in [-1, 1]."""
    readings: list[Reading]
    meant: list[Reading]
    """What each picture was to show."""
    cells: Tensor
    """[B, S, 3] index of kind, colour and background; 0 is none, 1 unclear, the rest names."""
    flaws: Tensor
    """[B, 3], see :func:`~miniature.verifier.heads.flaw_labels`."""
    counts: Tensor
    """[B, 35] numbers of objects, see :func:`~miniature.verifier.heads.count_labels`."""


class Batch(NamedTuple):
    """What one step learns from. Positions count the packed row, see ``packed_logits``."""

    block: Block
    groups: list[Tensor]
    """[B, Q, T] token ids of questions about things, about places and about whole prompts."""
    at: Tensor
    """[B, A + G] positions of the tokens after which an answer is read."""
    answers: Tensor
    """[B, A] 1 for yes, 0 for no."""
    grades: Tensor
    """[B, G] ids of the tokens that make a grade, digits and end; ``IGNORED`` where none is."""
    nouns: Tensor
    """[N, 4] (picture, position, cell, number), see :class:`.heads.NounHead`."""
    pairs: Tensor
    """[M, 4] (picture, position, across, down), see :class:`.heads.CompareHead`."""
    quotes: Tensor
    """[P, 2] (picture, position) of the quotation mark after each whole prompt; the question mark
    is one further."""
    demands: Tensor
    """[P, 9], see :func:`~miniature.verifier.prompt_heads.demand_labels`."""
    truths: Tensor
    """[P, 7], see :func:`~miniature.verifier.prompt_heads.truth_labels`."""


class _Row(NamedTuple):
    """One question, ready to be packed."""

    ids: list[int]
    """Tokens of the question and, for a grade, of its digits."""
    length: int
    """Tokens of the question alone."""
    holds: bool | None
    """The answer; None for a grade."""


class _Prompted(NamedTuple):
    """One question about a whole prompt, and what the temporary heads shall know of it."""

    row: _Row
    held: list[bool]
    spec: Spec
    nouns: list[tuple[int, int, int]]
    """(token, cell, number)."""


def make_block(seed: int, index: int, size: int) -> Block:
    """The ``index``-th block of training pictures; a function of its arguments."""
    rng = np.random.default_rng([seed, index, 11])
    scenes, renders = zip(*(training_picture(rng) for _ in range(size)), strict=True)
    pictures = np.stack(renders)
    readings = read_many(pictures)
    return Block(
        to_pixels(pictures),
        readings,
        [Reading.of_scene(scene) for scene in scenes],
        cell_labels(readings),
        flaw_labels(readings),
        count_labels(readings),
    )


class Batches:
    """Batches by step: new pictures and new questions in each."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, size: int) -> None:
        self.pad, self.end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
        self.seed, self.size = seed, size
        self._ids = lru_cache(maxsize=100_000)(
            lambda text: tokenizer.encode(text, add_special_tokens=False)
        )
        self._words = lru_cache(maxsize=None)(lambda token: str(tokenizer.decode([token])))

    def padded(self, rows: Sequence[Sequence[_Row]]) -> Tensor:
        """[B, Q, T] token ids of B lists of Q questions, padded on the right."""
        flat = [torch.tensor(row.ids) for line in rows for row in line]
        padded = nn.utils.rnn.pad_sequence(flat, batch_first=True, padding_value=self.pad)
        return padded.view(len(rows), len(rows[0]), -1)

    def _question_row(self, text: str, reading: Reading) -> _Row:
        ids = self._ids(text)
        return _Row(ids, len(ids), predicate_of(text).holds(reading))

    def _grade_row(self, text: str, value: int) -> _Row:
        ids = self._ids(text)
        return _Row([*ids, *self._ids(str(value))], len(ids), None)

    def _prompted(
        self, template: str, wording: Wording, held: list[bool], reading: Reading
    ) -> _Prompted:
        text = template.replace("{prompt}", wording.text, 1)
        if template == GRADE_CONTENT_TEMPLATE:
            row = self._grade_row(text, grade(held))
        else:
            row = _Row(self._ids(text), len(self._ids(text)), all(held))
        words = [self._words(token) for token in row.ids[: row.length]]
        nouns = [
            (token, *named(reading, kind, colour))
            for token, kind, colour in prompt_nouns(words, wording.spec)
        ]
        return _Prompted(row, held, wording.spec, nouns)

    def block(self, step: int) -> Block:
        """The pictures of a step."""
        return make_block(self.seed, step, self.size)

    def batch(self, step: int, rng: np.random.Generator) -> Batch:
        """The batch of a step; ``rng`` samples its questions."""
        block = self.block(step)
        ease = max(EASY_SHARE, 1 - step / EASY_STEPS)
        # One sort of prompts per batch: riddles are long, and all rows are as long as the longest.
        sort: Sort = "plain" if rng.random() < 0.5 else "thought"
        things, places, long, rows = [], [], [], []
        for reading, meant in zip(block.readings, block.meant, strict=True):
            texts = [semantic_question(reading, rng, ease, False) for _ in range(ABOUT_THINGS)]
            things.append([pick(rng, tuple(QUALITY_TEXT.values())), *texts])
            places.append(
                [semantic_question(reading, rng, ease, True) for _ in range(ABOUT_PLACES)]
            )
            prompted = []
            for template in (WHOLE_TEMPLATE, GRADE_CONTENT_TEMPLATE):
                right = bool(rng.random() < RIGHT_SHARE)
                wording, held = prompt_about(reading, meant, sort, rng, right)
                prompted.append(self._prompted(template, wording, held, reading))
            long.append(prompted)
            short = [self._question_row(text, reading) for text in things[-1]]
            short.append(self._grade_row(GRADE_QUALITY_TEXT, quality_grade(reading)))
            apart = [self._question_row(text, reading) for text in places[-1]]
            rows.append((short, apart, [one.row for one in prompted]))
        groups = [self.padded(group) for group in zip(*rows, strict=True)]
        starts = _starts(groups)
        at, answers, grades = zip(*(self._reads(line, starts) for line in rows), strict=True)
        return Batch(
            block, groups, torch.tensor(at), torch.tensor(answers, dtype=torch.float32),
            torch.tensor(grades), *_labels(things, places, long, block.readings, starts),
        )  # fmt: skip

    def _reads(
        self, rows: Sequence[Sequence[_Row]], starts: Sequence[tuple[int, int]]
    ) -> tuple[list[int], list[bool], list[int]]:
        """(positions, answers, grade tokens) of one picture's questions; grades come last."""
        at, answers, late, grades = [], [], [], []
        for group, (start, length) in zip(rows, starts, strict=True):
            for index, row in enumerate(group):
                first = start + index * length + row.length - 1
                if row.holds is not None:
                    at.append(first)
                    answers.append(row.holds)
                    continue
                targets = [*row.ids[row.length :], self.end]
                spare = _GRADE_TOKENS - len(targets)
                late += [first + min(i, len(targets) - 1) for i in range(_GRADE_TOKENS)]
                grades += targets + [IGNORED] * spare
        return at + late, answers, grades


def _starts(groups: Sequence[Tensor]) -> list[tuple[int, int]]:
    """(first position, tokens per question) of each packed group."""
    starts, start = [], PREFIX
    for ids in groups:
        starts.append((start, ids.shape[2]))
        start += ids.shape[1] * ids.shape[2]
    return starts


def _labels(
    things: Sequence[Sequence[str]],
    places: Sequence[Sequence[str]],
    long: Sequence[Sequence[_Prompted]],
    readings: Sequence[Reading],
    starts: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The temporary heads' labels: nouns, pairs, quotes, demands and truths of :class:`Batch`."""
    (s0, t0), (s1, t1), (s2, t2) = starts
    apart = namings(places, readings)
    flat = [(b, s2 + q * t2, one) for b, row in enumerate(long) for q, one in enumerate(row)]
    inside = [(b, start + token, *rest) for b, start, one in flat for token, *rest in one.nouns]
    nouns = [placed(namings(things, readings), t0, s0), placed(apart, t1, s1)]
    return (
        torch.cat([*nouns, torch.tensor(inside, dtype=torch.long).view(-1, 4)]),
        placed(comparisons(places, apart), t1, s1),
        torch.tensor([(b, start + one.row.length - 2) for b, start, one in flat]),
        torch.tensor([demand_labels(one.spec) for _, _, one in flat]),
        torch.tensor([truth_labels(one.spec, one.held) for _, _, one in flat]),
    )
