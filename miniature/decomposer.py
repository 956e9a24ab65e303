"""Training and evaluation of the miniature decomposer: prompt in, question-set JSON out.

A Llama of about a million parameters on random training prompts of both sorts. One example is
``prompt + "\\n"``, then the compact JSON of its reference questions, then the end token; only the
answer is learnt. Nothing stands before the prompt, so a server needs no chat template.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alphagrpo.errors import CheckpointError, NoQuestions
from alphagrpo.judging.questions import parse_question_set
from alphagrpo.shapes.prompts import Sort, Wording
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.splits import sample_split_wording, wordings
from alphagrpo.shapes.world import pick
from miniature.fast_llama import llama_hidden
from miniature.judge_tokenizer import judge_tokenizer
from miniature.question_json import questions_to_json
from miniature.training import TrainProgress, TrainSettings, TrainState, fit

BATCH = 32
STEPS = 1600
MAX_NEW_TOKENS = 200
IGNORED = -100
_EVALUATION_SEED = 90_001


def decomposer_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh model: 4 layers, width 128, heads of 32 (a width vLLM's CPU attention has)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def example(tokenizer: PreTrainedTokenizerFast, wording: Wording) -> tuple[list[int], list[int]]:
    """(ids of the prompt and a newline, ids of the right answer and the end token)."""
    prompt = tokenizer.encode(f"{wording.text}\n", add_special_tokens=False)
    answer = questions_to_json(reference_questions(wording.spec))
    ids = tokenizer.encode(answer, add_special_tokens=False)
    return list(prompt), [*ids, int(tokenizer.eos_token_id)]


def make_batch(
    tokenizer: PreTrainedTokenizerFast, wordings: Sequence[Wording]
) -> tuple[Tensor, Tensor]:
    """(input ids, labels), both [B, S], padded on the right; labels are IGNORED in the prompt."""
    pairs = [example(tokenizer, wording) for wording in wordings]
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), length), int(tokenizer.pad_token_id))
    labels = torch.full((len(pairs), length), IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def answer_logits(
    model: LlamaForCausalLM, ids: Tensor, labels: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(logits [N, vocabulary] before each of the batch's N answer tokens, those tokens [N])."""
    embedded = F.embedding(ids, model.model.embed_tokens.weight.to(dtype))
    hidden = llama_hidden(model.model, embedded, torch.arange(ids.shape[1]))
    learnt = labels[:, 1:] != IGNORED
    logits = F.linear(hidden[:, :-1][learnt], model.lm_head.weight.to(dtype)).float()
    return logits, labels[:, 1:][learnt]


def right_share(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> float:
    """Share of rows whose every answer token is the likeliest: just those that greedy decoding
    gets right.
    """
    logits, targets = answer_logits(model, ids, labels, torch.float32)
    wrong = (logits.argmax(dim=-1) != targets).float()
    rows = (labels[:, 1:] != IGNORED).nonzero()[:, 0]
    return float((torch.zeros(len(ids)).index_add_(0, rows, wrong) == 0).float().mean())


def pretrain_decomposer(
    output: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    checkpoint: Path | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    batch: int = BATCH,
    bf16: bool = True,
    stop_after: int | None = None,
) -> TrainState:
    """Train a decomposer and write it to ``output`` in the layout vLLM and transformers load.

    Without ``minutes`` and ``steps`` it takes :data:`STEPS` steps. ``checkpoint``
    is the folder of the resumable state (default ``output/training``, kept until the run is done).
    """
    tokenizer = judge_tokenizer()
    torch.manual_seed(seed)
    model = decomposer_model(tokenizer)
    dtype = torch.bfloat16 if bf16 else torch.float32

    def loss(step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        sorts = [pick(rng, get_args(Sort)) for _ in range(batch)]
        ids, labels = make_batch(
            tokenizer, [sample_split_wording("train", sort, rng) for sort in sorts]
        )
        logits, targets = answer_logits(model, ids, labels, dtype)
        return F.cross_entropy(logits, targets), {}

    held = [w for sort in get_args(Sort) for w in wordings("heldout", sort, 32, _EVALUATION_SEED)]
    ids, labels = make_batch(tokenizer, held)
    settings = TrainSettings(
        steps=STEPS if steps is None and minutes is None else steps,
        minutes=minutes,
        learning_rate=2e-3,
        seed=seed,
        checkpoint=checkpoint or output / "training",
        evaluate_every=200,
    )
    state = fit(
        model,
        loss,
        settings,
        resume=resume,
        progress=progress,
        evaluate=lambda: {"held_out_right": right_share(model, ids, labels)},
        stop_after=stop_after,
    )
    save_decomposer(output, model, tokenizer)
    return state


def save_decomposer(
    output: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write weights, config, tokenizer and generation config."""
    output.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def load_decomposer(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A saved decomposer. Raises CheckpointError where the folder is missing or broken."""
    try:
        model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            folder, padding_side="left", local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"a decomposer is a folder with config, safetensors and tokenizer, got {folder.name}: "
            f"{error}; make it with `python -m miniature pretrain decomposer`"
        ) from error
    return model.eval(), tokenizer


@torch.no_grad()
def decompose(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[str]:
    """The model's greedy answers to prompts, as text."""
    inputs = tokenizer(
        [f"{text}\n" for text in texts],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
        return_token_type_ids=False,
    )
    generate: Callable[..., Tensor] = model.generate  # type: ignore[misc, assignment]
    ids = generate(**inputs)
    return list(tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], True))


def evaluate_decomposer(folder: Path, n: int = 512, seed: int = 0) -> dict[str, float]:
    """Agreement with the reference on ``n`` held-out prompts of each sort, greedy decoding.

    ``plain`` and ``thought``: share of prompts whose whole set (texts, tags, dependencies, order)
    is the reference's; ``questions``: share of reference questions that are asked;
    ``parsed``: share of answers that are a question set at all, without structured output's help.
    """
    model, tokenizer = load_decomposer(folder)
    counts: dict[str, list[float]] = defaultdict(list)
    for sort in get_args(Sort):
        held = list(wordings("heldout", sort, n, seed))
        for start in range(0, n, 64):
            part = held[start : start + 64]
            answers = decompose(model, tokenizer, [wording.text for wording in part])
            for wording, answer in zip(part, answers, strict=True):
                _compare(wording, answer, sort, counts)
    counts["overall"] = [value for sort in get_args(Sort) for value in counts[sort]]
    return {name: float(np.mean(values)) for name, values in counts.items()}


def _compare(wording: Wording, answer: str, sort: str, counts: dict[str, list[float]]) -> None:
    reference = reference_questions(wording.spec)
    try:
        questions = parse_question_set(answer)
    except NoQuestions:
        questions = ()
    counts["parsed"].append(float(bool(questions)))
    counts[sort].append(float(questions == reference))
    texts = {question.text for question in questions}
    counts["questions"] += [float(question.text in texts) for question in reference]
