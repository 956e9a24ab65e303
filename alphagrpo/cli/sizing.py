"""Rows of the dry run on sizes: the model's weights, memory by part, and which card holds what."""

from __future__ import annotations

from alphagrpo.config import RunConfig
from alphagrpo.policy.cards import CARDS, Card
from alphagrpo.policy.fit import Case, Process, settings_for_room
from alphagrpo.policy.memory import MemoryEstimate, ModelSize, object_store_bytes
from alphagrpo.policy.working import DECODED_AT_ONCE

GB = 1e9
CARD_SIZES = tuple(sorted({card.memory_bytes for card in CARDS.values()}))
"""Bytes of the cards that are told of."""
Row = tuple[str, str, str]


def model_rows(config: RunConfig, size: ModelSize) -> list[Row]:
    """Numbers of weights by part, and what trains."""
    lora = config.model.trainable == "lora"
    rows = [
        ("understanding expert", _count(size.understanding), ""),
        ("generation expert", _count(size.generation), ""),
        ("embeddings and head", _count(size.embeddings), ""),
        ("vision transformer", _count(size.vision), "with connector"),
        ("autoencoder", _count(size.autoencoder), ""),
        ("time, latent, velocity", _count(size.other), "with position tables"),
        ("all weights", _count(size.total), ""),
    ]
    if lora:
        rank = config.model.lora.rank
        rows.append(("LoRA", _count(size.lora), f"rank {rank}, both experts; all else frozen"))
    else:
        rows.append(("trainable", _count(size.understanding + size.generation), "both experts"))
    return rows


def memory_rows(config: RunConfig, size: ModelSize, memory: MemoryEstimate) -> list[Row]:
    """Memory by part, of a rank of the learner and of a runner."""
    shared = config.learner.placement == "runners"
    batch = "a group" if config.rollout.slices == 1 else "a slice"
    dtype, holders = config.model.dtype, "" if shared else " and the learner"
    wide = "" if dtype == "float32" else f", {_count(size.float32)} of them float32"
    drawing, learning = memory.drawing, memory.learning
    rows = [
        ("weights", _size(memory.weights), f"{dtype}{wide}; in every runner{holders}"),
        ("float32 masters", _size(memory.masters), "learner"),
        *(
            [("adapters in " + dtype, _size(memory.lowered), "in every process, once per version")]
            if memory.lowered
            else []
        ),
        ("gradients", _size(memory.gradients), "learner, with those of groups ahead"),
        ("AdamW moments", _size(memory.optimizer), "learner"),
        ("keys and values", f"{size.kv_bytes_per_token / 1024:g} KiB per token", dtype),
        ("drawing: context", _size(drawing.context), "of the largest batch, packed branches"),
        ("drawing: thinking", _size(drawing.thinking), "estimate, contexts included"),
        ("drawing: denoising", _size(drawing.denoising), "likewise, all branches in one forward"),
        (
            "drawing: decoding",
            _size(drawing.decoding),
            f"likewise, {DECODED_AT_ONCE} pictures at a time",
        ),
        ("learning: context", _size(learning.context), f"of {batch}, packed branches"),
        (
            "learning: activations",
            _size(learning.activations),
            f"estimate: {batch}, one window step, all branches; {_recomputed(config)}",
        ),
    ]
    if memory.gathered and not shared:
        rows[:1] = [
            ("weights", _size(memory.weights), f"{dtype}{wide}; in every runner"),
            (
                "weights of a rank",
                _size(memory.rank_weights),
                "a share of the experts, and all else",
            ),
            ("gathered", _size(memory.gathered), "two layers whole, gradients of one"),
        ]
    if shared:
        rows.append(("runner and rank", _size(memory.shared), "one copy of the weights"))
    else:
        rows += [
            ("learner", _size(memory.learner), "a rank; one forward is held at a time"),
            ("runner", _size(memory.runner), "weights, and the largest part of drawing"),
        ]
    return [
        *rows,
        (
            "trajectories of a step",
            _size(memory.trajectories_per_step),
            f"object store; {memory.tokens_per_image:,} tokens a picture",
        ),
        ("object store", _size(object_store_bytes(config, memory)), "with the versions kept"),
    ]


def fit_rows(cases: list[Case]) -> list[Row]:
    """Each process at its peak, and whether a card of each size holds it."""
    return [
        (
            case.name,
            _size(int(case.peak_bytes)),
            "; ".join(f"{each / GB:.0f} GB: {_verdict(case, each)}" for each in CARD_SIZES),
        )
        for case in cases
    ]


def _verdict(case: Case, card_bytes: float) -> str:
    """Whether it fits, and what a budget makes of the card."""
    verdict, layers = case.verdict(card_bytes), dict(case.recomputed)
    if card_bytes not in layers or verdict == "does not fit":
        return verdict
    return f"{verdict}, {layers[card_bytes]} layers recomputed"


def _recomputed(config: RunConfig) -> str:
    setting = config.learner.recompute
    if setting == "none":
        return "no layer recomputed"
    return "all layers recomputed" + ("" if setting == "all" else ", fewer where there is room")


def fit_notes(
    config: RunConfig, cases: list[Case], card: Card, *, advised: Case | None = None
) -> list[str]:
    """What a card does not hold of the run as configured, or of what it is advised to be."""
    notes = []
    for case in cases:
        if not (case.configured or case is advised):
            continue
        if case.verdict(card.memory_bytes) != "does not fit":
            continue
        process: Process = "runner" if case.name == "runner" else "learner"
        notes.append(
            f"a {case.name} needs about {case.peak_bytes / GB:.0f} GB, {card.name} has "
            f"{card.memory_bytes / GB:.0f}; {settings_for_room(config, process)}"
        )
    return notes


def _count(number: int) -> str:
    if number >= 1e9:
        return f"{number / 1e9:.2f} B"
    return f"{number / 1e6:.1f} M"


def _size(number: int) -> str:
    return f"{number / GB:.2f} GB" if number >= GB / 10 else f"{number / 1e6:.1f} MB"
