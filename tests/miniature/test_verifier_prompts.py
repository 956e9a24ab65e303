"""The verifier's questions about whole prompts: texts, labels, packing, grades, and figures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from alphagrpo.judging.grades import CHOICES
from alphagrpo.rewards.programs import Holistic, SingleQuestion
from alphagrpo.shapes.grammar import Reading, Seen
from alphagrpo.shapes.oracle import read_many
from alphagrpo.shapes.specs import Item, Spec, random_scene
from alphagrpo.shapes.splits import split_of
from miniature.judge_tokenizer import judge_tokenizer, single_id, verifier_tokenizer
from miniature.verifier import asking, batches, prompt_heads, texts
from miniature.verifier import model as vision
from miniature.verifier import prompts as about
from miniature.verifier.evaluate import prompted_renders
from miniature.verifier.figures import grade_figures, rank_correlation
from miniature.verifier.pictures import MOST_OBJECTS, training_scene

TWO = Spec((Item(1, "red", "circle"), Item(2, "blue", "square")))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return verifier_tokenizer()


def seen(*things: tuple[str, str, int, int]) -> Reading:
    return Reading(tuple(Seen(*thing) for thing in things), "black")


def test_texts_are_those_the_reward_programs_ask():
    assert SingleQuestion().template == texts.WHOLE_TEMPLATE
    assert Holistic().semantic_template == texts.GRADE_CONTENT_TEMPLATE
    assert Holistic().quality_template == texts.GRADE_QUALITY_TEXT


def test_instructions_are_single_tokens_at_the_end(tokenizer):
    world = judge_tokenizer()
    common = {token: i for token, i in tokenizer.get_vocab().items() if i < len(world)}
    assert common == world.get_vocab()
    assert len(tokenizer) == len(world) + 3
    for text in texts.instructions():
        assert single_id(tokenizer, text) >= len(world)
    prompt = "a picture of two red circles"
    text = texts.WHOLE_TEMPLATE.replace("{prompt}", prompt)
    ids = tokenizer.encode(text)
    assert ids[1 : 1 + len(world.encode(prompt))] == world.encode(prompt)
    assert tokenizer.decode(ids) == text


def test_a_grade_is_its_digits(tokenizer):
    for grade in CHOICES:
        ids = tokenizer.encode(texts.GRADE_QUALITY_TEXT + grade)
        assert [tokenizer.decode([i]) for i in ids[1:]] == list(grade)


def test_grades_are_shares_of_what_holds():
    right = seen(("circle", "red", 0, 0), ("square", "blue", 0, 1), ("square", "blue", 2, 2))
    assert texts.semantic_truths(TWO, right) == [True, True, True]
    one_short = seen(("circle", "red", 0, 0), ("square", "blue", 0, 1))
    assert texts.semantic_truths(TWO, one_short) == [True, False, False]
    assert texts.grade([True, False, False]) == 3
    flawed = Reading((), "black", complete=False, even_colour=True, even_background=False)
    assert texts.quality_grade(flawed) == 3
    assert texts.quality_grade(right) == 10


def test_the_nearest_spec_holds_where_one_can():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        reading = Reading.of_scene(random_scene(rng))
        numbers = sorted(Counter((s.kind, s.colour) for s in reading.objects).values())
        holds = all(texts.semantic_truths(about.nearest_spec(reading, rng), reading))
        # No prompt asks for two of one sort and two of another.
        assert holds == (len(numbers) <= 2 and numbers != [2, 2])
        held += holds
    assert held > 60
    five = seen(*(("circle", "red", i // 3, i % 3) for i in range(5)))
    assert not all(texts.semantic_truths(about.nearest_spec(five, rng), five))


def test_prompts_are_of_training_words_and_right_about_as_often_as_they_should():
    rng = np.random.default_rng(1)
    right: dict[bool, list[bool]] = {True: [], False: []}
    riddles = 0
    for index in range(200):
        reading = Reading.of_scene(training_scene(rng))
        holding = index % 2 == 0
        sort = "plain" if index % 4 < 2 else "thought"
        wording, held = about.prompt_about(reading, reading, sort, rng, holding)
        assert split_of(wording) == "train"
        assert held == texts.semantic_truths(wording.spec, reading)
        riddles += bool(wording.riddles)
        right[holding].append(all(held))
    assert np.mean(right[True]) > 0.3
    assert np.mean(right[False]) < 0.1
    assert 40 < riddles < 120


def test_a_picture_without_words_in_training_gets_another_pictures_prompt(monkeypatch):
    # Step 3150 of the verifier's recipe: both sorts seen have next to no training riddle.
    monkeypatch.setattr(about, "training_wording", lambda *_: None)
    crosses = [Seen("cross", "green", 0, column) for column in range(3)]
    reading = Reading((*crosses, Seen("cross", "orange", 2, 2)), "black", True, True, True)
    rng = np.random.default_rng(3150)
    for right in (False, True):
        wording, held = about.prompt_about(reading, reading, "thought", rng, right)
        assert split_of(wording) == "train"
        assert wording.riddles
        assert held == texts.semantic_truths(wording.spec, reading)


def test_altered_specs_are_of_the_world_and_mostly_other():
    rng = np.random.default_rng(2)
    relation = Spec((Item(1, "red", "circle"), Item(1, "blue", "cross")), "above", "white")
    for spec in (TWO, relation, Spec((Item(4, "green", "cross"),), None, None, "circle")):
        altered = [about.altered_spec(spec, rng) for _ in range(100)]
        assert np.mean([other != spec for other in altered]) > 0.5
        assert len(set(altered)) > 8


def test_pictures_may_be_crowded():
    rng = np.random.default_rng(3)
    counts = [len(training_scene(rng).objects) for _ in range(400)]
    assert max(counts) == MOST_OBJECTS
    assert 0.1 < np.mean([count > 4 for count in counts]) < 0.35


def test_demand_and_truth_labels():
    assert prompt_heads.demand_labels(TWO) == [1, 1, 1, 2, 3, 2, 0, 0, 0]
    assert prompt_heads.truth_labels(TWO, [True, False, True]) == [1, 0, -1, -1, 1, -1, -1]
    single = Spec((Item(1, "red", "circle"),), None, "black", None)
    labels = prompt_heads.truth_labels(single, [True, False, False, True])
    assert labels == [1, -1, 0, -1, 0, 1, -1]


def test_prompt_nouns_are_known_by_colour_and_noun():
    words = ["a", " red", " circle", " and", " two", " blue", " squares", " and", " no", " cross"]
    assert prompt_heads.prompt_nouns(words, TWO) == [(2, "circle", "red"), (6, "square", "blue")]


@pytest.fixture(scope="module")
def batch(tokenizer):
    return batches.Batches(tokenizer, 0, 4).batch(2001, np.random.default_rng(4))


def _packed_tokens(batch: batches.Batch) -> torch.Tensor:
    rows = torch.cat([ids.flatten(1) for ids in batch.groups], dim=1)
    return torch.nn.functional.pad(rows, (vision.PREFIX, 0), value=-1)


def test_batches_read_answers_where_questions_end(tokenizer, batch):
    packed = _packed_tokens(batch)
    read = packed.gather(1, batch.at)
    mark, end = single_id(tokenizer, " ?"), tokenizer.eos_token_id
    num = batch.answers.shape[1]
    assert (read[:, :num] == mark).all()
    clean = single_id(tokenizer, texts.GRADE_QUALITY_TEXT)
    assert (read[:, num] == clean).all()
    assert (read[:, num + 3] == mark).all()
    for row, at in zip(
        batch.grades.view(-1, 3).tolist(), read[:, num:].reshape(-1, 3), strict=True
    ):
        known = [token for token in row if token != batches.IGNORED]
        assert known[-1] == end
        assert tokenizer.decode(known[:-1]) in CHOICES
        assert at[1 : len(known)].tolist() == known[:-1]


def test_batches_point_at_nouns_and_quotation_marks(tokenizer, batch):
    packed = _packed_tokens(batch)
    picture, position = batch.quotes.T
    assert (packed[picture, position] == single_id(tokenizer, '"')).all()
    assert (packed[picture, position + 1] == single_id(tokenizer, " ?")).all()
    picture, position = batch.nouns[:, :2].T
    words = {tokenizer.decode([i]).strip() for i in packed[picture, position].tolist()}
    assert words <= {*prompt_heads.KIND_OF, "object", "objects"}
    assert len(batch.demands) == len(batch.truths) == len(batch.quotes) == 8


def test_groups_of_questions_do_not_see_one_another(tokenizer, batch):
    torch.manual_seed(0)
    model = vision.verifier_model(tokenizer).eval()
    with torch.no_grad():
        features = vision.image_features(model, batch.block.pixels)
        packed = vision.packed_logits(model, tokenizer, features, batch.groups, batch.at)
        one = batch.groups[2][:, :1]
        alone = vision.answer_logits(model, tokenizer, features, one)[:, 0]
    torch.testing.assert_close(packed[:, batch.answers.shape[1] - 1], alone, atol=2e-5, rtol=1e-4)


class _Scripted:
    """Stands in for the forward: the next token it likes best, by the text before it."""

    def __init__(self, tokenizer, likes: dict[str, str | None]) -> None:
        self.tokenizer, self.likes = tokenizer, likes

    def __call__(self, model, tokenizer, features, ids):
        logits = torch.zeros(*ids.shape[:2], len(tokenizer))
        for b, row in enumerate(ids[:, 0].tolist()):
            text = tokenizer.decode([i for i in row if i != tokenizer.pad_token_id])
            word = self.likes[text]
            liked = tokenizer.eos_token_id if word is None else single_id(tokenizer, word)
            logits[b, 0, liked] = 1.0
            # What the choices exclude is never chosen, however much it is liked.
            logits[b, 0, single_id(tokenizer, " yes")] = 2.0
        return logits


def test_grades_are_digits_and_ten_is_not_one(tokenizer, monkeypatch):
    likes = {"seven ?": "7", "seven ?1": None, "ten ?": "1", "ten ?1": "0"}
    likes |= {"one ?": "1", "one ?1": None}
    monkeypatch.setattr(asking, "answer_logits", _Scripted(tokenizer, likes))
    monkeypatch.setattr(asking, "image_features", lambda model, pixels: pixels)
    pictures = np.zeros((3, 48, 48, 3), np.uint8)
    grades = asking.ask_grades(None, tokenizer, pictures, ["seven ?", "ten ?", "one ?"])
    assert grades.tolist() == [7, 10, 1]


def test_rank_correlation_with_ties_and_grade_figures():
    first = np.array([0.0, 3, 3, 10])
    assert rank_correlation(first, first * 2) == pytest.approx(1.0)
    assert rank_correlation(first, -first) == pytest.approx(-1.0)
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
    assert rank_correlation(first, np.array([0.0, 1, 2, 3])) == pytest.approx(4.5 / 22.5**0.5)
    assert rank_correlation(first, np.zeros(4)) is None
    figures = grade_figures("g", np.array([10, 5, 0]), [1.0, 1 / 3, 0.0])
    assert figures["g_exact"] == pytest.approx(2 / 3)
    assert figures["g_error"] == pytest.approx(2 / 3)
    assert "g_rank" not in grade_figures("g", np.array([10, 10]), [1.0, 0.5])


def test_prompted_renders_are_of_held_out_prompts_and_half_right():
    renders = prompted_renders(40, "thought", 5)
    assert renders.specs is not None
    assert renders.prompts is not None
    assert len(set(renders.prompts)) > 30
    assert any("in the colour of" in text for text in renders.prompts)
    held = [
        all(texts.semantic_truths(spec, reading))
        for spec, reading in zip(renders.specs, read_many(renders.pictures), strict=True)
    ]
    assert all(held[0::4])
    assert np.mean(held[1::4]) < 0.3
