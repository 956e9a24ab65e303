"""The miniature models' tokenizer: a byte-level BPE of the world's own language.

All three miniature models share it. It is trained in a second, from nothing but this package, and
every world word with its leading space is one token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from alphagrpo.judging.questions import QUALITY_TAGS, SEMANTIC_TAGS
from alphagrpo.shapes.edits import (
    NO_CHANGE,
    NOTHING_WRONG,
    comparison,
    difference,
    edit,
    near_miss,
    reflection,
)
from alphagrpo.shapes.grammar import QUALITY_TEXT
from alphagrpo.shapes.language import THINK_CLOSE, THINK_OPEN, canonical, describe
from alphagrpo.shapes.prompts import Wording, sample_wording
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.riddles import COLOUR_RIDDLES, COUNT_RIDDLES, KIND_RIDDLES, riddle_noun
from alphagrpo.shapes.specs import random_scene
from miniature.question_json import questions_to_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 768
"""Entries of the BPE itself, all 256 bytes included; special tokens come after them."""
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, PAD = "<image>", "<pad>"
SPECIAL_TOKENS = (PAD, IM_START, IM_END, VISION_START, VISION_END, IMAGE)
THINK_TOKENS = (THINK_OPEN, THINK_CLOSE)
"""Ordinary added tokens: they are part of what is decoded."""
PARALLELISM = "TOKENIZERS_PARALLELISM"
"""The library's own switch, read at each call."""
_SAMPLES = 1500
_SEED = 17
_WORD = re.compile(r"[a-z]+|[A-Z][a-z]+")


def _answer_parts(wording: Wording, rng: np.random.Generator) -> Iterator[str]:
    """All texts in which the models meet one wording."""
    yield wording.text
    yield canonical(wording.spec)
    yield questions_to_json(reference_questions(wording.spec))
    scene = random_scene(rng)
    yield describe(scene)
    yield comparison(wording.spec, scene)
    yield reflection(wording.spec, near_miss(wording.spec, rng))
    change = edit(scene, rng)
    yield change.instruction
    yield difference(scene, change.scene)


def world_corpus(samples: int = _SAMPLES, seed: int = _SEED) -> list[str]:
    """Texts of every sort the miniature models read or write; a function of the arguments."""
    rng = np.random.default_rng(seed)
    lines = [NOTHING_WRONG, NO_CHANGE, "the picture is not clean", "make the picture clean"]
    lines += ["there is something unclear", "yes", "no", " yes", " no", *QUALITY_TEXT.values()]
    lines += [riddle_noun(phrase, n) for phrase in KIND_RIDDLES for n in (1, 2)]
    lines += [f" {phrase}" for phrase in (*COLOUR_RIDDLES, *COUNT_RIDDLES)]
    for index in range(samples):
        wording = sample_wording("plain" if index % 2 else "thought", rng)
        lines += _answer_parts(wording, rng)
    return lines


def world_words() -> list[str]:
    """Every word of the world, sorted; the tags are not among them."""
    return sorted({w for line in world_corpus() for w in _WORD.findall(line) if w.islower()})


def _training_lines() -> Iterator[str]:
    """The corpus, and each word often enough that it becomes one token."""
    corpus = world_corpus()
    yield from corpus
    for word in world_words():
        yield from [f" {word}"] * 200
    for tag in (*SEMANTIC_TAGS, *QUALITY_TAGS):
        yield from [tag] * 100


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the tokenizers library from its thread pool.

    Two of its threads can wait for each other for ever, one with Python's lock and one with the
    iterator's, when it trains from a Python iterator (seen once in some hundred trainings).
    """
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def build_tokenizer(extra_special: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer, with room for a model's own special tokens at the end.

    Ids 0 .. 5 are ``SPECIAL_TOKENS``, then the BPE, the think tokens and ``extra_special``: what
    is common to all models has the same ids in all of them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE + len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    with _one_thread():
        core.train_from_iterator(_training_lines(), trainer)
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=IM_START,
        eos_token=IM_END,
        pad_token=PAD,
        additional_special_tokens=[VISION_START, VISION_END, IMAGE, *extra_special],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
