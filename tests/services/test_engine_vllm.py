"""A real vLLM engine against plain transformers: same picture, same question, same numbers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from alphagrpo.errors import ConfigError, ServiceError, ServiceUnavailable
from alphagrpo.images import image_hash
from alphagrpo.judging.engine import folder_revision
from alphagrpo.judging.verification import VerificationProgram
from alphagrpo.judging.yesno import answer_tokens
from alphagrpo.rewards.programs import Holistic
from alphagrpo.types import Question, QuestionSet
from services.engine_start import engine_arguments
from services.engine_vllm import VllmEngine
from services.settings import EngineSettings
from services.watching import watch
from tests.services.models import make_random

QUESTION = "is there a red circle ?"
PIXELS = np.random.default_rng(5).integers(0, 256, (48, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("models") / "verifier"
    make_random("verifier", path)
    before = dict(os.environ)
    yield path
    os.environ.clear()
    os.environ.update(before)


def _settings(folder: Path) -> EngineSettings:
    return EngineSettings(
        model=str(folder), device="cpu", dtype="float32", max_model_len=128, kv_cache_mib=16
    )


def _plain_log_probs(folder: Path, question: str) -> torch.Tensor:
    """Log-probabilities [V] after the question, by transformers, from ids and pixels made here."""
    from transformers import AutoTokenizer, Idefics3ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    fence, tag, image = tokenizer.convert_tokens_to_ids(
        ["<fake_token_around_image>", "<global-img>", "<image>"]
    )
    ids = [fence, tag, *[image] * 9, fence, *tokenizer.encode(question, add_special_tokens=False)]
    values = torch.tensor(PIXELS).permute(2, 0, 1)[None, None].float() / 127.5 - 1
    model = Idefics3ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), pixel_values=values).logits[0, -1]
    return logits.float().log_softmax(-1)


async def _check_scores(engine: VllmEngine, folder: Path, tokens: Sequence[int]) -> None:
    """A batch has the model's numbers in order, and vLLM is told what it is told of each alone."""
    texts = [QUESTION, "is there a blue square ?", "is there ?"]
    prompts = ["<image>" + text for text in texts]
    # The last has another head: what follows the picture is not all that differs.
    inputs = await engine._inputs.about([*prompts, "is <image> red ?"], PIXELS, "inputs")
    for prompt, shared in zip([*prompts, "is <image> red ?"], inputs, strict=True):
        alone = await engine._inputs.one(prompt, PIXELS, "inputs")
        for field in ("type", "prompt_token_ids", "mm_hashes", "mm_placeholders"):
            assert shared[field] == alone[field], (prompt, field)
    sent = [inputs[i]["mm_kwargs"]["image"][0] is not None for i in range(4)]
    assert sent == [True, False, False, False], "the picture goes to the engine once"
    asked = {"pixels": PIXELS, "image_key": image_hash(PIXELS)}
    batch = await engine.score_tokens(prompts, tokens, **asked)
    for text, got in zip(texts, batch, strict=True):
        plain = _plain_log_probs(folder, text)
        assert set(tokens) <= set(got)
        for token in tokens:
            assert got[token] == pytest.approx(float(plain[token]), abs=1e-4)
    assert await engine.score_tokens(prompts, tokens, **asked) == batch, "to the bit"
    with pytest.raises(ServiceError, match="max_model_len"):
        await engine.score_tokens([prompts[0], "<image>" + "red " * 200], tokens, **asked)
    await _check_cancelling(engine, prompts, tokens)


async def _check_cancelling(
    engine: VllmEngine, prompts: Sequence[str], tokens: Sequence[int]
) -> None:
    """A batch that is given up leaves nothing behind in vLLM, and the engine goes on."""
    asked = {"pixels": 255 - PIXELS, "image_key": "given up"}
    batch = asyncio.create_task(engine.score_tokens(prompts, tokens, **asked))
    while not engine._llm.output_processor.has_unfinished_requests():  # noqa: ASYNC110
        await asyncio.sleep(0)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert not engine._llm.output_processor.has_unfinished_requests()
    assert len(await engine.score_tokens(prompts, tokens, **asked)) == len(prompts)


async def _check_grades(engine: VllmEngine, folder: Path) -> None:
    """Structured output gives a whole number from 0 to 10, the likeliest one, or an error."""
    questions = Holistic().questions(QuestionSet(prompt="a red circle", questions=(), revision="-"))
    told = Question(id="s0", text=QUESTION, kind="semantic", tag="Existence")
    verdicts = await VerificationProgram(engine).verify(PIXELS, [*questions, told])
    for question, verdict in zip(questions, verdicts, strict=False):
        assert type(verdict.grade) is int
        assert verdict.grade in range(11)
        assert verdict.p_yes == verdict.grade / 10
        plain = _plain_log_probs(folder, question.text)
        digits = engine.tokenizer.encode("0123456789", add_special_tokens=False)
        assert len(digits) == 10
        assert str(verdict.grade)[0] == str(int(plain[digits].argmax()))
    assert verdicts[-1].grade is None
    with pytest.raises(ServiceError, match="whole choice"):
        await engine.generate(
            "<image>?", max_tokens=1, choices=["10"], pixels=PIXELS, image_key="cut"
        )


def _engine_processes() -> list[psutil.Process]:
    """vLLM's, among the children of this one."""
    children = psutil.Process().children(recursive=True)
    return [c for c in children if "EngineCore" in " ".join([c.name(), *c.cmdline()])]


async def _check_silence(engine: VllmEngine, tokens: Sequence[int]) -> None:
    """An engine that hangs without dying is found, and heard again when it goes on."""
    engine._silence_s = 1.0
    for process in _engine_processes():
        process.send_signal(signal.SIGSTOP)
    try:
        asked = engine.score_tokens(["<image>?"], tokens, pixels=255 - PIXELS, image_key="stopped")
        owed = asyncio.create_task(asked)
        reasons: list[str] = []
        await asyncio.wait_for(watch(engine, reasons.append, look_s=0.2), timeout=120)
        assert "has put out nothing for" in reasons[0]
        with pytest.raises(ServiceUnavailable, match="put out nothing"):
            await engine.check_health()
    finally:
        for process in _engine_processes():
            process.send_signal(signal.SIGCONT)
    await owed
    assert engine.failure() is None


@pytest.mark.engine
@pytest.mark.timeout(900)
async def test_scores_and_grades_are_the_models_and_a_dead_engine_says_so(folder):
    engine = VllmEngine(_settings(folder), vision=True)
    try:
        assert engine.model.revision == folder_revision(folder)
        tokens = answer_tokens(engine.tokenizer)
        await _check_scores(engine, folder, tokens.all)
        await _check_grades(engine, folder)
        await engine.check_health()
        await _check_silence(engine, tokens.all)
        assert not engine.alarm.is_set()
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64", "or it grows for an hour"
        for process in _engine_processes():
            process.kill()
            process.wait(30)
        with pytest.raises(ServiceUnavailable, match="alive"):
            await engine.score_tokens(["<image>?"], tokens.all, pixels=PIXELS, image_key="other")
        assert engine.alarm.is_set()
        with pytest.raises(ServiceUnavailable, match="dead"):
            await engine.check_health()
    finally:
        engine.shutdown()
    assert engine.failure() is None, "shut down on purpose"
    with pytest.raises(ServiceUnavailable, match="shut down"):
        await engine.score_tokens(["<image>?"], tokens.all, pixels=PIXELS, image_key="other")


def test_options_win_and_unknown_ones_are_refused(folder):
    settings = _settings(folder)
    assert engine_arguments(settings, "m", on_cpu=True)["kv_cache_memory_bytes"] == 16 << 20
    assert "block_size" not in engine_arguments(settings, "m", on_cpu=False)
    own = settings.model_copy(update={"options": {"max_num_seqs": 7, "sped": 1}})
    assert engine_arguments(own, "m", on_cpu=True)["max_num_seqs"] == 7


@pytest.mark.engine
def test_an_unknown_option_is_named(folder):
    settings = _settings(folder).model_copy(update={"options": {"sped": 1}})
    with pytest.raises(ConfigError, match="sped"):
        VllmEngine(settings, vision=True)
