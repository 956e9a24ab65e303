"""How far a verifier agrees with the oracle, and how far its confidences can be believed.

On renders the pictures are fresh ones of the three training families; on pictures that are given
(a policy's) the oracle reads them, which is a measurement: nothing is trained on them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from alphagrpo.errors import BadImage
from alphagrpo.shapes.corrupt import random_corruption
from alphagrpo.shapes.grammar import Reading
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import Spec, sample_scene
from alphagrpo.shapes.splits import wordings
from alphagrpo.shapes.verifier_model import (
    answer_logits,
    image_features,
    load_verifier,
    p_yes,
    to_pixels,
)
from alphagrpo.shapes.verifier_pictures import draw_imperfectly, training_scene
from alphagrpo.shapes.verifier_questions import predicate_of, training_questions
from alphagrpo.shapes.world import SIZE

Pictures = NDArray[np.uint8]
BINS = 15
QUESTIONS = 12
_CHUNK = 64
_FAMILIES = ("clean", "corrupted", "imperfect")


def calibration_error(p: NDArray[np.float64], truth: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error of the answer given: sum_b n_b/n · |accuracy_b − confidence_b|.

    The confidence is max(p, 1 − p); ``bins`` of equal width divide [0, 1].
    """
    confidence, right = np.maximum(p, 1 - p), (p > 0.5) == truth
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[index == b].mean() - confidence[index == b].mean()) * (index == b).mean()
        for b in range(bins)
        if (index == b).any()
    ]
    return float(sum(gaps))


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
        pixels = to_pixels(torch.from_numpy(pictures[start : start + _CHUNK]))
        ids = _padded(tokenizer, rows)
        features = image_features(model, pixels)
        p = p_yes(answer_logits(model, tokenizer, features, ids), tokenizer).double().numpy()
        answers += [p[i, : len(row)] for i, row in enumerate(rows)]
    return answers


def _padded(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[str]]) -> torch.Tensor:
    """[B, Q, T] ids; a picture with fewer questions repeats its first one."""
    most = max(map(len, rows))
    flat = [text for row in rows for text in [*row, *[row[0]] * (most - len(row))]]
    ids = tokenizer(flat, add_special_tokens=False, padding=True, return_tensors="pt").input_ids
    return ids.view(len(rows), most, -1)


def held_out_renders(
    n: int, seed: int
) -> Iterator[tuple[str, Pictures, list[list[str]], list[Reading]]]:
    """(family, pictures, questions, readings) of ``n`` fresh renders per family."""
    for number, family in enumerate(_FAMILIES):
        rng = np.random.default_rng([seed, number, 77])
        pictures: list[Pictures] = []
        while len(pictures) < n:
            scene = training_scene(rng)
            if family == "clean":
                pictures.append(render(scene, rng))
            elif family == "imperfect":
                pictures.append(draw_imperfectly(scene, rng))
            elif scene.objects:
                pictures.append(random_corruption(scene, rng)[1])
        yield family, *_asked_at_random(np.stack(pictures), rng)
    yield "prompted", *_prompted(n, seed)


def _prompted(n: int, seed: int) -> tuple[Pictures, list[list[str]], list[Reading]]:
    """Clean pictures of held-out prompts, asked their own questions and those of the next one."""
    rng = np.random.default_rng([seed, 78])
    specs = [wording.spec for wording in wordings("heldout", "plain", n, seed)]
    pictures = np.stack([render(sample_scene(spec, rng)) for spec in specs])
    own = [[question.text for question in reference_questions(spec)] for spec in specs]
    texts = [mine + other for mine, other in zip(own, own[1:] + own[:1], strict=True)]
    return pictures, texts, read_many(pictures)


def _asked_at_random(
    pictures: Pictures, rng: np.random.Generator
) -> tuple[Pictures, list[list[str]], list[Reading]]:
    readings = read_many(pictures)
    texts = [training_questions(reading, QUESTIONS, rng) for reading in readings]
    return pictures, texts, readings


class _Record:
    """Answers and truths by name."""

    def __init__(self) -> None:
        self.p: dict[str, list[float]] = defaultdict(list)
        self.truth: dict[str, list[bool]] = defaultdict(list)

    def add(
        self,
        family: str,
        answers: Sequence[NDArray[np.float64]],
        texts: Sequence[Sequence[str]],
        readings: Sequence[Reading],
    ) -> None:
        for row, asked, reading in zip(answers, texts, readings, strict=True):
            for p, text in zip(row, asked, strict=True):
                predicate = predicate_of(text)
                for name in ("overall", family, predicate.type):
                    self.p[name].append(float(p))
                    self.truth[name].append(predicate.holds(reading))

    def figures(self) -> dict[str, float]:
        p, truth = np.array(self.p["overall"]), np.array(self.truth["overall"])
        agreement = {
            name: float(np.mean((np.array(self.p[name]) > 0.5) == np.array(self.truth[name])))
            for name in self.p
        }
        return {
            **agreement,
            "calibration_error": calibration_error(p, truth),
            "brier": float(np.mean((p - truth) ** 2)),
            "mean_confidence": float(np.maximum(p, 1 - p).mean()),
            "yes_share": float(truth.mean()),
            "questions": float(len(p)),
        }


def evaluate_verifier(
    folder: Path,
    n: int = 1000,
    seed: int = 0,
    pictures: Path | Pictures | None = None,
    specs: Sequence[Spec] | None = None,
) -> dict[str, float]:
    """Agreement with the oracle in all, per question type and per family of pictures; calibration.

    Without ``pictures``: ``n`` fresh renders of each family ``clean``, ``corrupted``,
    ``imperfect`` (balanced questions about what is there and near misses) and ``prompted`` (clean
    pictures of held-out prompts with prompts' own questions). With ``pictures`` ([N, 48, 48, 3]
    bytes, or a folder of PNG files): at most ``n`` of these, asked what their ``specs`` (or the
    folder's ``specs.json``, a list in the order of file names) ask, else balanced questions.

    Raises:
        BadImage: a folder without pictures, or pictures of another shape.
    """
    model, tokenizer = load_verifier(folder)
    record = _Record()
    if pictures is None:
        for family, shown, texts, readings in held_out_renders(n, seed):
            record.add(family, ask(model, tokenizer, shown, texts), texts, readings)
        return record.figures()
    shown, found = load_pictures(pictures) if isinstance(pictures, Path) else (pictures, None)
    wanted = specs if specs is not None else found
    shown, texts, readings = _asked_at_random(shown[:n], np.random.default_rng([seed, 79]))
    if wanted is not None:
        texts = [[q.text for q in reference_questions(spec)] for spec in wanted[:n]]
    record.add("given", ask(model, tokenizer, shown, texts), texts, readings)
    return record.figures()


def load_pictures(folder: Path) -> tuple[Pictures, list[Spec] | None]:
    """The PNG files of a folder in order of their names, and the specifications beside them."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise BadImage(f"a folder of pictures holds PNG files, got none in {folder}; draw some")
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    if pictures.shape[1:] != (SIZE, SIZE, 3):
        raise BadImage(f"pictures are {SIZE} x {SIZE}, got {pictures.shape[1:3]}; resize them")
    listed = folder / "specs.json"
    if not listed.exists():
        return pictures, None
    return pictures, [Spec.from_json(value) for value in json.loads(listed.read_text())]
