"""Asking a verifier many things about many pictures at once, as an engine asks them one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from alphagrpo.judging.grades import BEST
from miniature.judge_tokenizer import single_id
from miniature.pixels import to_pixels
from miniature.verifier.model import answer_logits, image_features, p_yes

Pictures = NDArray[np.uint8]
_CHUNK = 64


def _padded(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[str]]) -> Tensor:
    """[B, Q, T] ids; a picture with fewer questions repeats its first one."""
    most = max(map(len, rows))
    flat = [text for row in rows for text in [*row, *[row[0]] * (most - len(row))]]
    ids = tokenizer(flat, add_special_tokens=False, padding=True, return_tensors="pt").input_ids
    return ids.view(len(rows), most, -1)


@torch.no_grad()
def ask(
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pictures: Pictures,
    texts: Sequence[Sequence[str]],
) -> list[NDArray[np.float64]]:
    """P(yes) of each picture's questions; pictures [B, 48, 48, 3], B lists of questions."""
    answers: list[NDArray[np.float64]] = []
    for start in range(0, len(pictures), _CHUNK):
        rows = texts[start : start + _CHUNK]
        features = image_features(model, to_pixels(pictures[start : start + _CHUNK]))
        logits = answer_logits(model, tokenizer, features, _padded(tokenizer, rows))
        p = p_yes(logits, tokenizer).double().numpy()
        answers += [p[i, : len(row)] for i, row in enumerate(rows)]
    return answers


@torch.no_grad()
def ask_grades(
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pictures: Pictures,
    texts: Sequence[str],
) -> NDArray[np.int64]:
    """The grade of each picture's one text: what greedy generation limited to 0 .. 10 writes.

    The digit is the likeliest of ten; after a "1" it is "0" or the end.
    """
    digits = [single_id(tokenizer, str(digit)) for digit in range(BEST)]
    end = int(tokenizer.eos_token_id)
    grades: list[NDArray[np.int64]] = []
    for start in range(0, len(pictures), _CHUNK):
        part = texts[start : start + _CHUNK]
        features = image_features(model, to_pixels(pictures[start : start + _CHUNK]))

        def after(words: Sequence[str], features: Tensor = features) -> Tensor:
            ids = _padded(tokenizer, [[text] for text in words])
            return answer_logits(model, tokenizer, features, ids)[:, 0]

        digit = after(part)[:, digits].argmax(dim=-1)
        second = after([f"{text}1" for text in part])
        is_ten = (digit == 1) & (second[:, digits[0]] > second[:, end])
        grades.append(torch.where(is_ten, BEST, digit).numpy())
    return np.concatenate(grades)
