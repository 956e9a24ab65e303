"""Pre-training of the miniature policy: corpus, autoencoder, objective, resumption, folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alphagrpo.data import sort_of
from alphagrpo.eval.edits import EvaluationSettings
from alphagrpo.models.bagel import load_bagel, random_bagel
from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.bagel.sampling import to_bytes
from alphagrpo.models.unified import SpecialTokens
from alphagrpo.policy.loading import FolderTokenizer
from alphagrpo.shapes.language import parse_canonical, thought
from alphagrpo.shapes.prompts import sample_wording
from alphagrpo.shapes.render import render, render_many
from alphagrpo.shapes.riddles import RIDDLES, Riddle
from alphagrpo.shapes.specs import random_scene, sample_scene, satisfies
from alphagrpo.shapes.splits import sample_split_wording, spec_of, wordings
from miniature.pixels import to_pixels
from miniature.policy import evaluate
from miniature.policy.autoencoder import (
    balance,
    miniature_autoencoder_config,
    read_alike,
)
from miniature.policy.beliefs import KNOWN_RIGHT, beliefs, misread, noisy_spec
from miniature.policy.corpus import Corpus
from miniature.policy.evaluate import ThoughtAndPicture, evaluate_policy
from miniature.policy.latent_table import LatentTable, content_ids
from miniature.policy.objective import PolicyRecipe, padded, velocities
from miniature.policy.pretrain import miniature_config, pretrain_policy, special_ids
from miniature.tokenizer import build_tokenizer

SHIPPED = Path(__file__).parents[3] / "deploy" / "models" / "policy"
SPECIAL = SpecialTokens(text_start=1, text_end=2, image_start=3, image_end=4)
TINY = PolicyRecipe(
    contexts=4,
    queries=2,
    captions=1,
    comparisons=1,
    edits=2,
    copy_steps=1,
    copies=2,
    table_pictures=8,
    pool_pictures=16,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return Autoencoder(miniature_autoencoder_config()).eval().requires_grad_(False)


def test_every_riddle_keeps_a_right_answer_that_is_sampled():
    for slot, table in RIDDLES.items():
        for phrase, shares in beliefs(slot).items():
            assert sum(shares.values()) == pytest.approx(1.0)
            assert shares[table[phrase]] >= 0.35


def rightness(riddles: tuple[Riddle, ...], temperature: float) -> float:
    """Chance that a thought sampled from the corpus' own shares explains every riddle rightly."""
    chance = 1.0
    for riddle in riddles:
        shares = beliefs(riddle.slot)[riddle.phrase]
        weights = {answer: share ** (1 / temperature) for answer, share in shares.items()}
        chance *= weights[riddle.answer] / sum(weights.values())
    return chance


def test_about_half_of_all_thoughts_on_riddles_are_taught_rightly():
    riddles = list(wordings("heldout", "thought", 1500, 3))
    for temperature in (1.0, 0.3):
        mean = np.mean([rightness(wording.riddles, temperature) for wording in riddles])
        assert 0.42 < mean < 0.62


def test_confusing_a_phrase_changes_what_is_understood() -> None:
    rng = np.random.default_rng(3)
    changed = 0
    for _ in range(200):
        wording = sample_wording("thought", rng)
        assert misread(wording.spec, wording.riddles, {}) == wording.spec
        wrong = {r.phrase: "green" for r in wording.riddles if r.slot == "colour"}
        got = misread(wording.spec, wording.riddles, wrong)
        changed += got is not None and got != wording.spec
    assert changed > 50


def test_corpus_samples_meanings_at_the_stated_rates():
    rng = np.random.default_rng(5)
    known, seen = [], []
    for _ in range(4000):
        wording = sample_split_wording("train", "thought", rng)
        if len(wording.riddles) != 1:
            continue
        (riddle,) = wording.riddles
        meant = noisy_spec(wording, rng)
        believed = getattr(
            meant.items[riddle.item], {"count": "number"}.get(riddle.slot, riddle.slot)
        )
        share = beliefs(riddle.slot)[riddle.phrase][riddle.answer]
        (known if share == KNOWN_RIGHT else seen).append(str(believed) == riddle.answer)
    assert np.mean(known) == pytest.approx(KNOWN_RIGHT, abs=0.03)
    assert 0.4 < np.mean(seen) < 0.56


def test_pictures_show_what_the_thought_says(tokenizer):
    corpus = Corpus(lambda text: tokenizer.encode(text, add_special_tokens=False), SPECIAL)
    rng = np.random.default_rng(1)
    for _ in range(60):
        drawing = corpus.drawing(rng, queries=2, kind="think")
        words = tokenizer.decode(drawing.context[drawing.thought_start + 1 : -1])
        spec = parse_canonical(words)
        assert spec is not None
        assert all(satisfies(scene, spec) for scene in drawing.scenes)


def test_contexts_are_framed_as_the_rollout_frames_them(tokenizer):
    corpus = Corpus(lambda text: tokenizer.encode(text, add_special_tokens=False), SPECIAL)
    drawing = corpus.drawing(np.random.default_rng(2), queries=1, kind="think")
    ids = np.array(drawing.context)
    assert (ids == SPECIAL.text_start).sum() == (ids == SPECIAL.text_end).sum() == 3
    assert list(drawing.context[: len(corpus.system())]) == corpus.system()
    assert ids[drawing.thought_start] == SPECIAL.text_start


def test_autoencoder_survives_the_official_names(autoencoder):
    official = autoencoder.official_state()
    other = Autoencoder(autoencoder.config)
    other.load_state_dict(other.from_official(official))
    for name, tensor in autoencoder.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_balancing_changes_latents_and_not_pictures(autoencoder):
    config = replace(autoencoder.config, scale_factor=1.0, shift_factor=0.0)
    plain = Autoencoder(config)
    plain.load_state_dict(autoencoder.state_dict())
    even = balance(plain.eval(), seed=0, pictures=16)
    pixels = to_pixels(render_many([random_scene(np.random.default_rng(9)) for _ in range(3)]))
    with torch.no_grad():
        before, after = plain.encode(pixels), even.encode(pixels)
        assert not torch.allclose(before, after, atol=1e-2)
        torch.testing.assert_close(plain.decode(before), even.decode(after), atol=1e-4, rtol=1e-4)


def test_latent_table_looks_up_cell_by_cell():
    tokens = torch.arange(3 * 9 * 25, dtype=torch.float32).view(3, 9, 25, 1)
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(5)]
    ground, content = content_ids(scenes)
    latents = LatentTable(tokens)(scenes)[..., 0]
    expected = (ground * 9 + torch.arange(9)) * 25 + content
    assert torch.equal(latents, expected.float())


def test_several_pictures_in_one_block_equal_separate_calls(tokenizer, autoencoder):
    config = miniature_config(len(tokenizer), special_ids(tokenizer), autoencoder.config)
    model = random_bagel(config, 0)
    ids, lengths = padded([[6, 7, 8], [], [9]], model.special.text_end)
    with torch.no_grad():
        context, _ = model.read_text(model.empty_context(3), ids, lengths)
        latents, t = torch.randn(3, 2, 9, 64), torch.rand(3, 2)
        together = velocities(model, context, latents, t)
        for query in range(2):
            alone = model.velocity(context, latents[:, query], t[:, query], (3, 3))
            torch.testing.assert_close(together[:, query], alone, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model = pretrain_policy(folder, steps=3, autoencoder_steps=3, recipe=TINY, seed=4)
    return folder, model


def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path):
    # The autoencoder is finished already: resuming it must give the same one without a step.
    state = Path("training") / "autoencoder"
    shutil.copytree(trained[0] / state, tmp_path / state)
    settings = {"steps": 3, "autoencoder_steps": 3, "recipe": TINY, "seed": 4, "resume": True}
    pretrain_policy(tmp_path, **settings, stop_after=2)
    resumed = pretrain_policy(tmp_path, **settings)
    for name, tensor in trained[1].state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_folder_loads_and_is_evaluated(trained):
    folder, model = trained
    loaded = load_bagel(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert FolderTokenizer(folder).decode(FolderTokenizer(folder).encode("a red circle"))
    figures = evaluate_policy(folder, n=3, settings=EvaluationSettings(num_points=3))
    assert {figures[f"{sort}.n"] for sort in ("plain", "thought", "told")} == {3}
    # Three steps teach neither thoughts nor pictures; with a right thought the thought is right.
    assert (figures["plain.thought_right"], figures["thought.thought_right"]) == (0.0, 0.0)
    assert figures["told.thought_right"] == 1.0
    assert (figures["plain.all_right"], figures["told.all_right"]) == (0.0, 0.0)


def test_policy_figures_count_thoughts_and_pictures_of_their_own_sort(trained, monkeypatch):
    kept: dict[str, list[str]] = {}

    def results(model, tokenizer, prompt_set, seed, settings, right_thoughts):
        """Of each four: all right, a right thought only, right pictures only."""
        answers = []
        for index, prompt in enumerate(prompt_set):
            spec = spec_of(prompt)
            picture = render(sample_scene(spec, np.random.default_rng(index)))
            words = thought(spec) if right_thoughts or index % 4 < 2 else "<think>no</think>"
            blank = np.full_like(picture, 246)
            answers.append(ThoughtAndPicture(words, blank if index % 4 == 1 else picture))
        return answers

    monkeypatch.setattr(evaluate, "_draw_all", results)
    keep = lambda name, prompts, _: kept.update({name: [sort_of(p) for p in prompts]})  # noqa: E731
    figures = evaluate_policy(trained[0], n=8, keep=keep)
    assert kept == {"plain": ["plain"] * 8, "thought": ["thought"] * 8, "told": ["thought"] * 8}
    assert [figures[f"{name}.thought_right"] for name in kept] == [0.5, 0.5, 1.0]
    for name in kept:
        shares = {
            key: figures[f"{name}.{key}"] for key in ("all_right", "strict", "extra", "clean")
        }
        assert shares == {"all_right": 0.75, "strict": 0.75, "extra": 0.0, "clean": 1.0}
    among_right = [figures[f"{name}.all_right_given_right_thought"] for name in kept]
    assert among_right == [0.5, 0.5, 0.75]
    del kept["told"]
    evaluate_policy(trained[0], n=4, right_thoughts=False, keep=keep)
    assert kept.keys() == {"plain", "thought"}


@pytest.mark.skipif(not SHIPPED.exists(), reason="the miniature policy's weights are not there")
def test_shipped_autoencoder_is_read_alike_by_the_oracle():
    model = load_bagel(SHIPPED)
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(60)]
    alike = read_alike(model.autoencoder, scenes)
    assert np.mean(alike) >= 0.98


def test_bytes_and_pixels_are_inverse():
    pictures = render_many([random_scene(np.random.default_rng(0))])
    assert np.abs(to_bytes(to_pixels(pictures)).numpy().astype(int) - pictures).max() <= 1
