"""The judges' training: the fast forwards, short runs, resuming, what is saved, calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from alphagrpo.errors import BadImage, CheckpointError
from alphagrpo.shapes.grammar import QUALITY_TEXT
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.questions import questions_from_json, reference_questions
from alphagrpo.shapes.render import render
from alphagrpo.shapes.specs import Item, Spec
from alphagrpo.shapes.splits import sample_split_wording, split_of
from alphagrpo.shapes.world import GRID, SIZE, Scene, SceneObject
from miniature import decomposer
from miniature.judge_tokenizer import (
    FENCE,
    GLOBAL,
    IMAGE,
    judge_tokenizer,
    single_id,
    verifier_tokenizer,
)
from miniature.verifier import evaluate as evaluation
from miniature.verifier import figures as figures_of
from miniature.verifier import heads
from miniature.verifier import model as vision
from miniature.verifier import policy as given
from miniature.verifier import pretrain as verifier
from miniature.verifier.pictures import training_picture, training_scene
from miniature.verifier.questions import predicate_of, training_questions


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return judge_tokenizer()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_answers_and_image_tokens_are_single_tokens(tokenizer):
    yes, no = vision.answer_ids(tokenizer)
    assert not set(yes) & set(no)
    assert tokenizer.encode("is there a circle ? yes")[-1] == yes[0]
    assert tokenizer.encode("is there a circle ? no")[-1] == no[0]
    special = [single_id(tokenizer, token) for token in (IMAGE, FENCE, GLOBAL)]
    assert len(set(special)) == 3


def test_decomposer_examples_come_back_as_the_reference(tokenizer):
    rng = np.random.default_rng(0)
    for sort in ("plain", "thought"):
        wording = sample_split_wording("train", sort, rng)
        asked, answer = decomposer.example(tokenizer, wording)
        assert tokenizer.decode(asked) == wording.text + "\n"
        assert answer[-1] == tokenizer.eos_token_id
        found = questions_from_json(tokenizer.decode(answer[:-1]))
        assert found == reference_questions(wording.spec)
        assert split_of(wording) == "train"


def test_fast_decomposer_forward_is_transformers_forward(tokenizer):
    torch.manual_seed(0)
    model = decomposer.decomposer_model(tokenizer).eval()
    rng = np.random.default_rng(1)
    ids, labels = decomposer.make_batch(
        tokenizer, [sample_split_wording("train", "plain", rng) for _ in range(3)]
    )
    with torch.no_grad():
        fast, targets = decomposer.answer_logits(model, ids, labels, torch.float32)
        slow = model(ids).logits[:, :-1][labels[:, 1:] != decomposer.IGNORED]
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)
    assert len(targets) == int((labels != decomposer.IGNORED).sum())


def test_packed_verifier_forward_is_one_question_at_a_time(tokenizer):
    torch.manual_seed(0)
    model = vision.verifier_model(tokenizer).eval()
    texts = ["is there a red circle ?", "is the red circle left of the blue square ?"]
    ids = [tokenizer.encode(text) for text in texts]
    questions = torch.full((1, 2, max(map(len, ids))), int(tokenizer.pad_token_id))
    for row, found in enumerate(ids):
        questions[0, row, : len(found)] = torch.tensor(found)
    pixels = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    fence, tag, image = (single_id(tokenizer, t) for t in (FENCE, GLOBAL, IMAGE))
    with torch.no_grad():
        features = vision.image_features(model, pixels)
        fast = vision.answer_logits(model, tokenizer, features, questions)
        for row, found in enumerate(ids):
            full = torch.tensor([[fence, tag, *[image] * 9, fence, *found]])
            slow = model(input_ids=full, pixel_values=pixels[:, None]).logits[0, -1]
            torch.testing.assert_close(fast[0, row], slow, atol=2e-5, rtol=1e-4)


def test_questions_are_of_the_grammar_and_of_both_answers():
    rng = np.random.default_rng(2)
    pictures = np.stack([training_picture(rng)[1] for _ in range(60)])
    answers: dict[str, list[bool]] = {}
    for reading in read_many(pictures):
        texts = training_questions(reading, 12, rng)
        assert texts[:3] == list(QUALITY_TEXT.values())
        for text in texts:
            predicate = predicate_of(text)
            answers.setdefault(predicate.type, []).append(predicate.holds(reading))
    assert len(answers) == 10
    for name, found in answers.items():
        assert 0.1 < np.mean(found) < 0.95, name


def test_training_pictures_are_of_many_sorts_and_repeatable():
    first = [training_picture(np.random.default_rng([3, i])) for i in range(40)]
    again = [training_picture(np.random.default_rng([3, i])) for i in range(40)]
    assert all((a[1] == b[1]).all() and a[0] == b[0] for a, b in zip(first, again, strict=True))
    assert all(picture.shape == (SIZE, SIZE, 3) for _, picture in first)
    readings = read_many(np.stack([picture for _, picture in first]))
    assert 3 < sum(reading.complete for reading in readings) < 38
    counts = {len(training_scene(np.random.default_rng([4, i])).objects) for i in range(400)}
    assert counts == set(range(9))


def test_cell_labels_name_what_is_seen():
    scene = Scene((SceneObject("cross", "blue", 1, 2),), "white")
    labels = heads.cell_labels(read_many(render(scene)[None]))[0]
    assert labels[1 * GRID + 2].tolist() == [2 + 3, 2 + 2, 2 + 2]
    assert labels[0].tolist() == [0, 0, 2 + 2]


def test_count_labels_count_each_sort():
    things = (("cross", "blue", 1, 2), ("cross", "red", 0, 0), ("square", "blue", 2, 2))
    scene = Scene(tuple(SceneObject(*thing) for thing in things), "black")
    labels = heads.count_labels(read_many(render(scene)[None]))[0]
    assert labels[0] == 3
    assert labels[1:5].tolist() == [0, 1, 0, 2]
    assert labels[5:11].tolist() == [1, 0, 2, 0, 0, 0]
    assert labels[11:].sum() == 3
    assert labels[11 + 3 * 6 + 2] == 1


def test_namings_find_nouns_cells_and_numbers(tokenizer):
    things = (("circle", "red", 0, 1), ("square", "blue", 2, 2), ("square", "red", 1, 0))
    scene = Scene(tuple(SceneObject(*thing) for thing in things), "black")
    text = "is the red circle left of the blue square ?"
    texts = [["are there exactly two squares ?", "is there a cross ?", text]]
    nouns = heads.namings(texts, read_many(render(scene)[None]))
    expected = [[0, 0, 4, -1, 2], [0, 1, 3, -1, 0], [0, 2, 3, 1, 1], [0, 2, 8, 8, 1]]
    assert nouns.tolist() == expected
    assert heads.comparisons(texts, nouns).tolist() == [[0, 2, 9, 0, 0]]
    assert heads.placed(nouns, 10, 12)[2].tolist() == [0, 12 + 2 * 10 + 3, 1, 1]
    ids = tokenizer.encode(text)
    assert [tokenizer.decode([ids[i]]).strip() for i in (3, 8)] == ["circle", "square"]


def test_decomposer_resumes_to_the_same_weights_and_loads(tmp_path):
    def run(name: str, **more) -> Path:
        decomposer.pretrain_decomposer(
            tmp_path / name,
            steps=6,
            batch=4,
            bf16=False,
            checkpoint=tmp_path / f"{name}-ck",
            **more,
        )
        return tmp_path / name

    whole = run("whole")
    run("parts", stop_after=3)
    parts = run("parts", resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    model, tokenizer = decomposer.load_decomposer(whole)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    figures = decomposer.evaluate_decomposer(whole, n=2)
    assert set(figures.values()) == {0.0}, "six steps teach no model to write a question set"
    assert set(figures) == {"plain", "thought", "questions", "parsed", "overall"}


def test_verifier_resumes_to_the_same_weights_and_loads(tmp_path):
    def run(name: str, **more) -> Path:
        verifier.pretrain_verifier(
            tmp_path / name,
            steps=4,
            batch=4,
            bf16=False,
            checkpoint=tmp_path / f"{name}-ck",
            **more,
        )
        return tmp_path / name

    whole = run("whole")
    run("parts", stop_after=3)
    parts = run("parts", resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    assert set(weights(whole)) == set(vision.verifier_model(verifier_tokenizer()).state_dict())
    processor = json.loads((whole / "preprocessor_config.json").read_text())
    assert processor["size"] == {"longest_edge": SIZE}
    figures = evaluation.evaluate_verifier(whole, n=4)
    assert {"overall", "spatial", "geometry", "clean", "prompted", "calibration_error"} <= set(
        figures
    )
    assert {"whole", "whole_thought", "grade_content_exact", "grade_quality_error"} <= set(figures)


def test_losses_fall_on_a_few_examples(tokenizer):
    torch.manual_seed(0)
    model = decomposer.decomposer_model(tokenizer)
    rng = np.random.default_rng(5)
    ids, labels = decomposer.make_batch(
        tokenizer, [sample_split_wording("train", "plain", rng) for _ in range(2)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        logits, targets = decomposer.answer_logits(model, ids, labels, torch.float32)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_calibration_error_of_known_answers():
    p = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1])
    truth = np.array([True] * 9 + [False])
    # 10 answers at confidence 0.9, all right: the gap is 0.1.
    assert figures_of.calibration_error(p, truth) == pytest.approx(0.1)
    truth[0] = False
    assert figures_of.calibration_error(p, truth) == pytest.approx(0.0)


def test_pictures_of_a_folder_are_measured(tmp_path):
    scene = Scene((SceneObject("circle", "red", 0, 0),), "black")
    Image.fromarray(render(scene)).save(tmp_path / "a.png")
    spec = {"items": [[1, "red", "circle"]], "relation": None, "background": None, "absent": None}
    (tmp_path / "specs.json").write_text(json.dumps([spec]))
    found = given.load_pictures(tmp_path)
    assert found.pictures.shape == (1, SIZE, SIZE, 3)
    assert found.specs is not None
    assert found.specs[0].total == 1
    assert found.prompts is None


def test_pictures_come_back_as_they_were_saved(tmp_path):
    scene = Scene((SceneObject("circle", "red", 0, 0),), "black")
    spec = Spec((Item(1, "red", "circle"),))
    saved = given.Given(render(scene)[None].repeat(2, 0), [spec] * 2, ["a red circle"] * 2)
    given.save_pictures(tmp_path, saved)
    back = given.load_pictures(tmp_path)
    assert (back.pictures == saved.pictures).all()
    assert back[1:] == saved[1:]
    assert back.first(1).prompts == ["a red circle"]


def test_missing_models_and_pictures_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="pretrain decomposer"):
        decomposer.load_decomposer(tmp_path / "none")
    with pytest.raises(CheckpointError, match="pretrain verifier"):
        vision.load_verifier(tmp_path / "none")
    with pytest.raises(BadImage, match="PNG"):
        given.load_pictures(tmp_path)
