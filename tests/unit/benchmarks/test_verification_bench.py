"""The rival gets the same engine, and ratios are to it."""

from __future__ import annotations

from types import SimpleNamespace

import jinja2

from alphagrpo.judging.templates import verification_prompt
from benchmarks.plain_vllm import BARE, command_line
from benchmarks.prefix_cache import IMAGE_TOKENS, QUESTIONS, SIDE, PrefixCounter, questions
from benchmarks.verification import PLAIN, Figures, rows_of
from miniature.verifier.model import image_tokens
from tests.unit.judging.fake_engine import FakeTokenizer


def test_engine_arguments_are_options_of_the_server() -> None:
    arguments = {
        "model": "m", "enforce_eager": True, "enable_x": False, "max_model_len": None,
        "block_size": 32, "limit_mm_per_prompt": {"image": 1},
    }  # fmt: skip
    assert command_line(arguments) == [
        "--model", "m", "--enforce-eager", "--no-enable-x", "--block-size", "32",
        "--limit-mm-per-prompt", '{"image": 1}',
    ]  # fmt: skip


def test_the_rival_reads_the_same_prompt() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "is it red ?"}]
    rendered = jinja2.Template(BARE).render(messages=[{"role": "user", "content": parts}])
    assert rendered == verification_prompt("is it red ?", "bare", FakeTokenizer())


def test_ratios_are_of_medians_and_say_whether_a_goal_is_met() -> None:
    figures = {
        PLAIN: Figures([100.0, 300.0, 200.0], [5.0, 4.0, 6.0]),
        "handle, by picture": Figures([1000.0], [1.0]),
        "gateway, by picture": Figures([598.0], [2.0]),
        "gateway, JSON, by question": Figures([50.0], [20.0]),
    }
    rows = rows_of(figures)
    assert rows[0] == (PLAIN, "200", "100", "300", "5.00", "1.00")
    assert [row[-1] for row in rows[1:]] == [
        "5.00 (goal 5: met)", "2.99 (goal 3: not met)", "0.25",
    ]  # fmt: skip
    assert [row[-1] for row in rows_of({"gateway, by picture": figures[PLAIN]})] == ["-"]


def test_prefixes_are_counted_as_vllm_counts_them() -> None:
    counter = PrefixCounter()
    stats = SimpleNamespace(prefix_cache_stats=SimpleNamespace(queries=300, hits=256))
    assert counter("config", 0) is counter
    counter.record(None, None)
    for _ in range(2):
        counter.record(stats, None, mm_cache_stats=None, engine_idx=0)
    counter.log_engine_initialized()
    assert (counter.queries, counter.hits) == (600, 512)


def test_there_are_as_many_questions_and_image_tokens_as_is_said() -> None:
    assert image_tokens(SIDE) == IMAGE_TOKENS
    assert len({question.text for question in questions()}) == QUESTIONS
