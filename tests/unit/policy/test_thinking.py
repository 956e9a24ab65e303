"""Sampling of thoughts: the filter, the random numbers, and framing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphagrpo.config.schema import SamplingParams
from alphagrpo.kernels import token_log_probs
from alphagrpo.policy.contexts import frame, read_prefix, read_thoughts
from alphagrpo.policy.thinking import pick, think, uniforms
from tests.fakes import make_model

LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))


@pytest.mark.parametrize(
    ("u", "top_p", "expected"),
    [(0.0, 1.0, 1), (0.6, 1.0, 3), (0.99, 1.0, 0), (0.99, 0.5, 1), (0.99, 0.7, 3), (0.5, 0.7, 1)],
)
def test_pick_inverts_the_filtered_distribution(u: float, top_p: float, expected: int) -> None:
    sampling = SamplingParams(temperature=1.0, top_p=top_p)
    assert pick(LOGITS, torch.tensor([u]), sampling).item() == expected


def test_pick_draws_with_the_filtered_frequencies() -> None:
    sampling = SamplingParams(temperature=0.7, top_p=0.95)
    u = (torch.arange(20_000) + 0.5) / 20_000
    ids = pick(LOGITS.expand(20_000, -1), u, sampling)
    probs = (LOGITS[0] / 0.7).softmax(0)
    kept = probs.clone()
    kept[0] = 0.0 if probs[[1, 3, 2]].sum() >= 0.95 else kept[0]
    counts = torch.bincount(ids, minlength=4) / 20_000
    torch.testing.assert_close(counts, kept / kept.sum(), atol=1e-3, rtol=0)


def test_zero_temperature_is_greedy() -> None:
    assert pick(LOGITS, torch.tensor([0.999]), SamplingParams(temperature=0)).item() == 1


def test_draws_are_a_function_of_seed_sample_and_index() -> None:
    table = uniforms([5, 5, 6], [0, 1, 0], 8)
    assert torch.equal(uniforms([6], [0], 3)[0], table[2, :3])
    assert len({round(float(x), 9) for x in table.flatten()}) == 24
    assert 0.0 <= float(table.min()) < float(table.max()) < 1.0
    many = uniforms([1], [0], 20_000)
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)


def test_frame_pads_with_ends_and_counts_real_tokens() -> None:
    model = make_model()
    ids, lengths = frame(model, [np.array([7, 8]), np.array([], np.int64)], torch.device("cpu"))
    assert ids.tolist() == [[1, 7, 8, 2], [1, 2, 2, 2]]
    assert lengths.tolist() == [4, 2]


def test_scores_are_those_of_each_thought_read_alone() -> None:
    model = make_model()
    prefix = read_prefix(model, np.array([9, 10]), [np.array([11, 12, 13])])
    thoughts = [np.array([20, 21, 22, 2]), np.array([23, 24]), np.array([2])]
    finished = [True, False, True]
    read = read_thoughts(model, prefix.expand(3).full, thoughts, finished)
    assert read.mask.sum(dim=1).tolist() == [4, 2, 1]
    for i, ids in enumerate(thoughts):
        sequence = torch.tensor([[1, *ids.tolist()]])
        _, hidden = model.read_text(prefix.full, sequence, torch.tensor([len(ids) + 1]))
        alone, _ = token_log_probs(
            hidden[0, :-1].detach(), model.text_head().detach(), torch.from_numpy(ids)
        )
        torch.testing.assert_close(read.log_probs[i, : len(ids)], alone, atol=1e-5, rtol=1e-5)
        assert read.log_probs[i, len(ids) :].abs().sum() == 0
    assert read.context.position.tolist() == [4 + 5 + 5, 4 + 5 + 4, 4 + 5 + 2]


def test_decoding_step_by_step_agrees_with_reading_at_once() -> None:
    """Greedy thoughts must be the likeliest ids of the teacher-forced reading too."""
    model = make_model(seed=3)
    prefix = read_prefix(model, np.array([9]), [np.array([11]), np.array([12, 13])])
    thoughts = think(
        model,
        prefix.full,
        seeds=[0, 0],
        samples=[0, 1],
        sampling=SamplingParams(temperature=0),
        max_tokens=6,
    )
    for i, thought in enumerate(thoughts):
        sequence = torch.tensor([[1, *thought.ids.tolist()]])
        row = prefix.full.rows(torch.tensor([i]))
        _, hidden = model.read_text(row, sequence, torch.tensor([len(thought.ids) + 1]))
        best = model.text_logits(hidden[0, :-1]).argmax(dim=-1)
        assert best.tolist() == thought.ids.tolist()
