"""Pre-training of the miniature policy: corpus, autoencoder, objective, resumption, folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alphagrpo.models.bagel import load_bagel, random_bagel
from alphagrpo.models.bagel.autoencoder import Autoencoder
from alphagrpo.models.unified import SpecialTokens
from alphagrpo.policy.loading import FolderTokenizer
from alphagrpo.shapes.language import parse_canonical
from alphagrpo.shapes.pixels import to_bytes, to_pixels
from alphagrpo.shapes.render import render_many
from alphagrpo.shapes.riddles import RIDDLES
from alphagrpo.shapes.specs import random_scene, satisfies
from alphagrpo.shapes.splits import sample_split_wording, wordings
from miniature.policy.corpus import KNOWN_RIGHT, Corpus, beliefs, noisy_spec, rightness
from miniature.policy.evaluate import evaluate_policy
from miniature.policy.latent_table import LatentTable, content_ids
from miniature.policy.objective import PolicyRecipe, padded, velocities
from miniature.policy.pretrain import miniature_config, pretrain_policy, special_ids
from miniature.policy.pretrain_autoencoder import (
    balance,
    miniature_autoencoder_config,
    read_alike,
)
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


def test_every_riddle_keeps_a_right_answer_that_can_be_found():
    for slot, table in RIDDLES.items():
        for phrase, shares in beliefs(slot).items():
            assert sum(shares.values()) == pytest.approx(1.0)
            assert shares[table[phrase]] >= 0.35


def test_about_half_of_all_thoughts_on_riddles_are_taught_rightly():
    asked = list(wordings("heldout", "thought", 1500, 3))
    for temperature in (1.0, 0.3):
        mean = np.mean([rightness(wording.riddles, temperature) for wording in asked])
        assert 0.42 < mean < 0.62


def test_corpus_draws_meanings_at_the_stated_rates():
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
        said = tokenizer.decode(drawing.context[drawing.thought_start + 1 : -1])
        spec = parse_canonical(said)
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
    figures = evaluate_policy(folder, n=3, num_points=3)
    for sort in ("plain", "thought", "told"):
        assert figures[f"{sort}.n"] == 3
        assert figures[f"{sort}.all_right"] == figures[f"{sort}.clean"] == 0.0, "three steps: noise"
        assert figures[f"{sort}.extra"] == 1.0
    assert figures["told.thought_right"] == 1.0


@pytest.mark.skipif(not SHIPPED.exists(), reason="the miniature policy's weights are not there")
def test_shipped_autoencoder_is_read_alike_by_the_oracle():
    model = load_bagel(SHIPPED)
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(60)]
    alike = read_alike(model.autoencoder, scenes)
    assert np.mean(alike) >= 0.98


def test_bytes_and_pixels_are_inverse():
    pictures = render_many([random_scene(np.random.default_rng(0))])
    assert np.abs(to_bytes(to_pixels(pictures)).astype(int) - pictures).max() <= 1
