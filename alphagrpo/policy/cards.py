"""What a card computes in a second: one that was measured, and estimates scaled from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alphagrpo.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU as the arithmetic of time and memory sees it; docs/speed.md has the sources."""

    name: str
    memory_bytes: float
    """As the card is named; drivers report some 6 % more."""
    peak_tflops: float
    """Published, bfloat16 without sparsity."""
    matmul_tflops: float
    """What large bfloat16 products reach."""
    denoising_share: float
    """Of :attr:`matmul_tflops`, in the rollout's denoising steps."""
    learning_share: float
    """In the learner's window steps, recomputation counted as work."""
    reading_share: float
    """In reading prefixes and thoughts, with or without gradient: short batches, many launches."""
    token_s: float
    """Sampling one token of all thoughts of a batch, whose size hardly matters: launches of kernels
    take the time, so it is the host's figure more than the card's.
    """
    decode_s: float
    """Decoding a million pixels."""
    source: str


H200 = Card(
    name="H200",
    memory_bytes=141e9,
    peak_tflops=989.0,
    matmul_tflops=803.0,
    denoising_share=0.54,
    learning_share=0.51,
    reading_share=0.10,
    token_s=0.170,
    decode_s=0.076,
    source="measured in November 2026, one group of each kind",
)


def _scaled(name: str, *, memory_bytes: float, peak_tflops: float) -> Card:
    """A card nobody measured: the H200's figures, scaled by published peaks.

    Seconds a token stay as they are, since launches decide them.
    """
    factor = peak_tflops / H200.peak_tflops
    return replace(
        H200,
        name=name,
        memory_bytes=memory_bytes,
        peak_tflops=peak_tflops,
        matmul_tflops=H200.matmul_tflops * factor,
        decode_s=H200.decode_s / factor,
        source=f"estimate: the H200's figures x {factor:.2f}, the ratio of published peaks",
    )


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        H200,
        _scaled("H100", memory_bytes=80e9, peak_tflops=989.0),
        _scaled("A100", memory_bytes=80e9, peak_tflops=312.0),
    )
}
"""By name: H200, H100 (SXM, 80 GB), A100 (SXM, 80 GB)."""


def card_of(name: str) -> Card:
    """The card of a name, in any case; ConfigError for one that the table does not have."""
    card = CARDS.get(name.upper())
    if card is None:
        raise ConfigError(
            f"a step's time is predicted for one of {', '.join(CARDS)}, got {name!r}; name the "
            "one nearest to yours"
        )
    return card
