"""How far a verifier agrees with the oracle, and how far its confidences can be believed.

On renders the pictures are fresh ones of the three training families. A policy's own pictures are
read by the oracle as well, which is a measurement: nothing is trained on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

from alphagrpo.shapes.edits import near_miss
from alphagrpo.shapes.grammar import Reading
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.prompts import Sort
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import sample_scene, satisfies
from alphagrpo.shapes.splits import wordings
from miniature.corrupt import random_corruption
from miniature.verifier.asking import Pictures, ask, ask_grades
from miniature.verifier.figures import Record, calibration_error, grade_figures
from miniature.verifier.model import load_verifier
from miniature.verifier.pictures import altered, draw_imperfectly, training_scene
from miniature.verifier.policy_pictures import (
    PictureSet,
    draw_pictures,
    load_pictures,
    save_pictures,
)
from miniature.verifier.questions import training_questions
from miniature.verifier.texts import (
    GRADE_CONTENT_TEMPLATE,
    GRADE_QUALITY_TEXT,
    WHOLE_TEMPLATE,
    semantic_truths,
)

QUESTIONS = 12
_FAMILIES = ("clean", "corrupted", "imperfect")
Judge = tuple[Idefics3ForConditionalGeneration, PreTrainedTokenizerFast]


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
        yield family, *_random_questions(np.stack(pictures), rng)
    yield "prompted", *_prompted(n, seed)


def _prompted(n: int, seed: int) -> tuple[Pictures, list[list[str]], list[Reading]]:
    """Clean pictures of held-out prompts, asked their own questions and those of the next one."""
    rng = np.random.default_rng([seed, 78])
    specs = [wording.spec for wording in wordings("heldout", "plain", n, seed)]
    pictures = np.stack([render(sample_scene(spec, rng)) for spec in specs])
    own = [[question.text for question in reference_questions(spec)] for spec in specs]
    texts = [texts + others for texts, others in zip(own, own[1:] + own[:1], strict=True)]
    return pictures, texts, read_many(pictures)


def _random_questions(
    pictures: Pictures, rng: np.random.Generator
) -> tuple[Pictures, list[list[str]], list[Reading]]:
    readings = read_many(pictures)
    texts = [training_questions(reading, QUESTIONS, rng) for reading in readings]
    return pictures, texts, readings


def prompted_renders(n: int, sort: Sort, seed: int) -> PictureSet:
    """``n`` pictures for held-out prompts: half right, half nearly right; half clean."""
    rng = np.random.default_rng([seed, 80, get_args(Sort).index(sort)])
    prompts = list(wordings("heldout", sort, n, seed))
    pictures = []
    for index, wording in enumerate(prompts):
        scene = (sample_scene, near_miss)[index % 2](wording.spec, rng)
        while index % 2 and satisfies(scene, wording.spec):
            # A near miss may change what the prompt leaves open, such as an open background.
            scene = altered(scene, rng)
        pictures.append((render, draw_imperfectly)[index // 2 % 2](scene, rng))
    return PictureSet(np.stack(pictures), [w.spec for w in prompts], [w.text for w in prompts])


class _Whole(NamedTuple):
    """A verifier's answers about pictures as a whole, and the true ones."""

    p: list[float]
    truth: list[bool]
    content: list[int]
    content_true: list[float]
    quality: list[int]
    quality_true: list[float]

    def figures(self, name: str = "whole") -> dict[str, float]:
        p, truth = np.array(self.p), np.array(self.truth)
        return {
            name: float(np.mean((p > 0.5) == truth)),
            f"{name}_calibration_error": calibration_error(p, truth),
            f"{name}_yes_share": float(truth.mean()),
            **grade_figures("grade_content", np.array(self.content), self.content_true),
            **grade_figures("grade_quality", np.array(self.quality), self.quality_true),
        }


def _ask_whole(judge: Judge, chosen: PictureSet, readings: Sequence[Reading]) -> _Whole:
    """The whole-prompt question and both grades of pictures with specs and prompts."""
    assert chosen.specs is not None
    assert chosen.prompts is not None
    held = [semantic_truths(spec, seen) for spec, seen in zip(chosen.specs, readings, strict=True)]
    clean = [
        np.mean([r.complete, r.even_colour, r.even_background]).item() for r in readings
    ]  # fmt: skip
    whole = [[WHOLE_TEMPLATE.replace("{prompt}", text, 1)] for text in chosen.prompts]
    content = [GRADE_CONTENT_TEMPLATE.replace("{prompt}", text, 1) for text in chosen.prompts]
    quality = [GRADE_QUALITY_TEXT] * len(content)
    return _Whole(
        [float(p[0]) for p in ask(*judge, chosen.pictures, whole)],
        [all(row) for row in held],
        ask_grades(*judge, chosen.pictures, content).tolist(),
        [sum(row) / len(row) for row in held],
        ask_grades(*judge, chosen.pictures, quality).tolist(),
        clean,
    )


def _on_renders(judge: Judge, n: int, seed: int) -> dict[str, float]:
    record = Record()
    for family, pictures, texts, readings in held_out_renders(n, seed):
        record.add(family, ask(*judge, pictures, texts), texts, readings)
    parts: dict[str, _Whole] = {}
    for sort in get_args(Sort):
        renders = prompted_renders(n, sort, seed)
        parts[sort] = _ask_whole(judge, renders, read_many(renders.pictures))
    both = _Whole(*(first + second for first, second in zip(*parts.values(), strict=True)))
    by_sort = {f"whole_{sort}": part.figures()["whole"] for sort, part in parts.items()}
    return record.figures() | both.figures() | by_sort


def _on_pictures(judge: Judge, chosen: PictureSet, seed: int) -> dict[str, float]:
    record = Record()
    rng = np.random.default_rng([seed, 79])
    pictures, texts, readings = _random_questions(chosen.pictures, rng)
    if chosen.specs is None:
        record.add("given", ask(*judge, pictures, texts), texts, readings)
        return record.figures()
    balanced = Record()
    balanced.add("given", ask(*judge, pictures, texts), texts, readings)
    texts = [[q.text for q in reference_questions(spec)] for spec in chosen.specs]
    record.add("given", ask(*judge, pictures, texts), texts, readings)
    figures = record.figures()
    others = balanced.figures()
    figures |= {f"balanced_{k}": others[k] for k in ("overall", "count", "total")}
    if chosen.prompts is not None:
        figures |= _ask_whole(judge, chosen, readings).figures()
    return figures


def evaluate_verifier(
    folder: Path,
    n: int = 1000,
    seed: int = 0,
    pictures: Path | None = None,
    policy: Path | None = None,
) -> dict[str, float]:
    """Agreement with the oracle in all, per question type and per family of pictures; calibration.

    Without ``pictures``: ``n`` fresh renders of each family ``clean``, ``corrupted``,
    ``imperfect`` (balanced questions about what is there and near misses) and ``prompted`` (clean
    pictures of held-out prompts with prompts' own questions); ``whole`` and the grades are of
    ``n`` right and nearly right pictures of held-out prompts of each sort. With ``policy``, the
    folder of one: ``n`` pictures that it draws for held-out prompts, which are written to
    ``pictures`` where that is named too. With ``pictures`` alone, a folder of PNG files: at most
    ``n`` of these. They are asked what the folder's ``specs.json`` (a list in the order of file
    names) asks and, for ``whole``, the texts of ``prompts.json``; without either, balanced
    questions.

    Raises:
        BadImage: a folder without pictures, or pictures of another shape.
    """
    judge = load_verifier(folder)
    if policy is not None:
        chosen = draw_pictures(policy, n, seed)
        if pictures is not None:
            save_pictures(pictures, chosen)
    elif pictures is not None:
        chosen = load_pictures(pictures)
    else:
        return _on_renders(judge, n, seed)
    return _on_pictures(judge, chosen.first(n), seed)
