"""Skills with pictures: what the corpus shows, what it never shows, and how they are judged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alphagrpo.errors import ConfigError
from alphagrpo.eval import edits
from alphagrpo.eval.edits import edit_benchmark
from alphagrpo.models.bagel import random_bagel
from alphagrpo.models.unified import SpecialTokens
from alphagrpo.shapes.edits import NOTHING_WRONG, comparison, defects
from alphagrpo.shapes.render import render_many
from alphagrpo.shapes.specs import random_scene, sample_scene, satisfies
from alphagrpo.shapes.splits import sample_split_wording
from miniature.__main__ import _evaluator
from miniature.policy import skills
from miniature.policy.autoencoder import miniature_autoencoder_config
from miniature.policy.cell_heads import CELLS, HEADS, _inputs, look_at_own_cell
from miniature.policy.changes import phrased, repaired
from miniature.policy.corpus import Corpus, compare_prompt
from miniature.policy.objective import _unseen, padded
from miniature.policy.pretrain import encoder, miniature_config, special_ids
from miniature.policy.skills import compositions
from miniature.tokenizer import build_tokenizer, world_words

SPECIAL = SpecialTokens(text_start=1, text_end=2, image_start=3, image_end=4)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def corpus(tokenizer):
    return Corpus(encoder(tokenizer), SPECIAL)


@pytest.fixture
def model(tokenizer):
    config = miniature_config(
        len(tokenizer), special_ids(tokenizer), miniature_autoencoder_config()
    )
    return random_bagel(config, 0)


def test_a_repaired_picture_is_of_the_prompt_and_the_complaint_says_what_was_not():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        spec = sample_split_wording("train", "plain", rng).spec
        change = repaired(spec, rng)
        assert satisfies(change.after, spec)
        assert change.complaint == comparison(spec, change.before)
        assert (change.before == change.after) == (change.complaint == NOTHING_WRONG)
        wrong += bool(defects(spec, change.before))
    assert 150 < wrong < 285


def test_every_kind_of_defect_is_repaired():
    rng = np.random.default_rng(1)
    names: set[str] = set()
    for _ in range(400):
        spec = sample_split_wording("train", "plain", rng).spec
        names |= {defect.name for defect in defects(spec, repaired(spec, rng).before)}
    assert names == {"colour", "kind", "missing", "extra", "relation", "background"}


def test_wishes_say_the_same_as_instructions():
    wishes = {phrased("make the red circle a square", np.random.default_rng(i)) for i in range(9)}
    assert wishes == {"make the red circle a square", "the red circle should be a square"}
    wishes = {
        phrased("move the red circle above the cross", np.random.default_rng(i)) for i in (0, 1)
    }
    assert "the red circle should be above the cross" in wishes


def test_no_turn_of_the_corpus_is_a_self_reflection(corpus, tokenizer):
    request = tokenizer.decode(encoder(tokenizer)(compare_prompt("x"))).removesuffix(" x")
    rng, compared = np.random.default_rng(2), 0
    for _ in range(400):
        assert corpus.caption(rng).target is None
        comparing = corpus.comparison(rng)
        assert comparing.target is None
        compared += request in tokenizer.decode(comparing.texts)
        turn = corpus.edit(rng)
        assert turn.target is not None
        assert request not in tokenizer.decode(turn.texts)
    assert compared == 400


def test_skills_use_the_worlds_own_words(corpus, tokenizer):
    rng = np.random.default_rng(3)
    known = {*world_words(), "green", ","}
    for _ in range(300):
        for turn in (corpus.edit(rng), corpus.comparison(rng)):
            text = tokenizer.decode([i for i in turn.texts if i not in (1, 2)])
            words = text.replace("<think>", " ").replace("</think>", " ").split()
            # Two framed pieces may meet without a space between them.
            assert all(w in known or any(w.startswith(k) for k in known) for w in words)


def test_a_dropped_picture_leaves_no_trace(model):
    latents, t = torch.randn(2, 9, 64), torch.full((2,), 0.5)
    ids, lengths = padded([[6, 7], [8]], 2)
    with torch.no_grad():
        before, _ = model.read_text(model.empty_context(2), ids, lengths)
        after = model.read_latents(before, torch.randn(2, 9, 64), (3, 3))
        half = _unseen(before, after, torch.tensor([True, False]))
        texts = [model.read_text(c, ids, lengths)[0] for c in (after, half, before)]
        full, mixed, bare = (model.velocity(c, latents, t, (3, 3)) for c in texts)
    torch.testing.assert_close(mixed[0], full[0])
    torch.testing.assert_close(mixed[1], bare[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(full[1], bare[1], atol=1e-3)


def test_cell_heads_look_at_their_own_cell(model):
    latents = torch.randn(40, CELLS, 64)
    look_at_own_cell(model, latents)
    width = model.config.llm.head_dim
    for index, head in HEADS:
        layer = model.language_model.model.layers[index]
        inputs = _inputs(model, layer.input_layernorm_moe_gen, latents)
        rows = slice(head * width, (head + 1) * width)
        code = layer.self_attn.q_proj_moe_gen(inputs).detach()[:, rows]
        assert torch.equal(code, layer.self_attn.k_proj_moe_gen(inputs).detach()[:, rows])
        code = torch.nn.functional.normalize(code, dim=1).view(-1, CELLS, width)
        likeness = torch.einsum("ncw,mdw->cd", code[::2], code[1::2])
        assert torch.equal(likeness.argmax(dim=1), torch.arange(CELLS))


def _scribe(monkeypatch, pictures):
    """Replace drawing by ``pictures(conditions, requests) -> [B, H, W, 3]``."""

    def draw(model, tokenizer, conditions, requests, seeds, settings):
        pixels = pictures(conditions, requests)
        path = SimpleNamespace(final=torch.zeros(len(pixels), CELLS, 64))
        return SimpleNamespace(pixels=pixels, path=path, thoughts=[])

    monkeypatch.setattr(edits, "draw_requests", draw)
    monkeypatch.setattr(skills, "draw_requests", draw)


def test_a_picture_left_alone_is_kept_and_follows_nothing(model, monkeypatch):
    _scribe(monkeypatch, lambda conditions, requests: conditions.pixels)
    figures = edit_benchmark(model, None, n=25, seed=1)
    assert (figures["edit.kept"], figures["edit.followed"], figures["edit.both"]) == (1, 0, 0)
    assert figures["edit.kept.add"] == 1


def test_other_pictures_keep_little(model, monkeypatch):
    other = render_many([random_scene(np.random.default_rng(i)) for i in range(25)])
    _scribe(monkeypatch, lambda conditions, requests: other[: len(requests)])
    assert edit_benchmark(model, None, n=25, seed=1)["edit.kept"] < 0.2


def test_refinements_are_counted_against_their_drafts(model, monkeypatch):
    rng = np.random.default_rng(4)
    specs = [w.spec for w in skills._prompts(20, 0)]
    right = render_many([sample_scene(spec, rng) for spec in specs])
    blank = np.full_like(right, 246)

    def pictures(conditions, requests):
        """Drafts: the first half is right. Refinements: all but the first are."""
        mixed = right.copy()
        mixed[(slice(10, None) if conditions is None else slice(0, 1))] = blank[0]
        return mixed

    _scribe(monkeypatch, pictures)
    monkeypatch.setattr(skills, "_spoken", lambda m, t, thoughts: [NOTHING_WRONG] * 20)
    figures = compositions(model, None, n=20, seed=0)
    assert figures["compose.before"] == 0.5
    assert figures["compose.after"] == 0.95
    assert (figures["compose.mended"], figures["compose.broken"]) == (1.0, 0.1)
    assert (figures["compose.named"], figures["compose.content"]) == (0.0, 1.0)


def test_every_model_has_its_evaluator_and_skills_are_the_policys():
    names = {_evaluator(m, False).__name__ for m in ("policy", "decomposer", "verifier")}
    assert names == {"evaluate_policy", "evaluate_decomposer", "evaluate_verifier"}
    assert _evaluator("policy", True) is skills.evaluate_skills
    with pytest.raises(ConfigError, match="policy's"):
        _evaluator("verifier", True)
