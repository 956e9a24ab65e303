"""Rows of the dry run on sizes: the model's weights, memory by part, and which card holds what."""

from __future__ import annotations

from alphagrpo.config import RunConfig
from alphagrpo.policy.cards import CARDS, Card
from alphagrpo.policy.fit import SHARED_CARD, Case
from alphagrpo.policy.memory import MemoryEstimate, ModelSize, object_store_bytes

GB = 1e9
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
    rows = [
        ("weights", _size(memory.weights), f"{dtype}, in every runner{holders}"),
        ("float32 masters", _size(memory.masters), "learner"),
        ("gradients", _size(memory.gradients), "learner"),
        ("AdamW moments", _size(memory.optimizer), "learner"),
        ("keys and values", f"{size.kv_bytes_per_token / 1024:g} KiB per token", dtype),
        ("context", _size(memory.context_per_group), f"of {batch}, packed branches"),
        (
            "activations",
            _size(memory.activations),
            f"estimate: {batch}, one window step, all branches",
        ),
    ]
    if memory.gathered and not shared:
        rows[:1] = [
            ("weights", _size(memory.weights), f"{dtype}, in every runner"),
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
            ("runner", _size(memory.runner), "without working space"),
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
    sizes = sorted({card.memory_bytes for card in CARDS.values()})
    return [
        (
            case.name,
            _size(int(case.peak_bytes)),
            "; ".join(f"{each / GB:.0f} GB: {case.verdict(each)}" for each in sizes),
        )
        for case in cases
    ]


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
        notes.append(
            f"a {case.name} needs about {case.peak_bytes / GB:.0f} GB, {card.name} has "
            f"{card.memory_bytes / GB:.0f}; {_remedies(config, case)}"
        )
    return notes


def _remedies(config: RunConfig, case: Case) -> str:
    remedies = ["raise rollout.slices", "lower rollout.group_size"]
    if case.name != "runner":
        if not config.learner.recompute:
            remedies.insert(0, "set learner.recompute")
        if config.model.trainable == "experts":
            shared = case.name.startswith(SHARED_CARD)
            remedies.insert(0, f"raise {'rollout.num_runners' if shared else 'learner.ranks'}")
    return ", ".join(remedies[:-1]) + f" or {remedies[-1]}"


def _count(number: int) -> str:
    if number >= 1e9:
        return f"{number / 1e9:.2f} B"
    return f"{number / 1e6:.1f} M"


def _size(number: int) -> str:
    return f"{number / GB:.2f} GB" if number >= GB / 10 else f"{number / 1e6:.1f} MB"
