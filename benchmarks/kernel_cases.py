"""What the kernels' benchmark runs: the contenders of each case, and the float64 truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from alphagrpo.flow import Guidance, guide, sde_step, shifted_times, transition_log_prob
from alphagrpo.kernels import (
    gaussian_noise,
    guided_transition,
    replay_transition,
    rms_norm,
    rotate,
    swiglu,
    token_log_probs,
)
from alphagrpo.kernels.philox import normal, torch_words
from benchmarks.timing import CUDA, DEVICE, Contender, Values, Work, grad, leaf

TIMES = shifted_times(16, 3.0).tolist()
STEP = {"t": TIMES[1], "t_next": TIMES[2], "noise_level": 0.7, "t_second": TIMES[1]}
GUIDANCE = Guidance(text_scale=4.0, renorm="global")
TRUTH_ROWS = 512
"""Tokens whose float64 logits exist at one time."""


@dataclass(frozen=True)
class Case:
    """One table row for each contender; the first is eager torch."""

    name: str
    contenders: dict[str, Contender]
    work: Work
    truth: Values = field(default_factory=dict)
    calls: int = 1


def cases() -> Iterator[Case]:
    """BAGEL's own sizes on a GPU, small ones on a CPU; built one after another, to save memory."""
    if CUDA:
        yield from transition_cases(14, 1024)
        for tokens in (14 * 128, 4096, 14 * 1024):
            yield from token_cases(tokens, 152_064, 3584, torch.bfloat16)
        yield norm_case(28 * 1026, 3584, torch.bfloat16)
        yield rotary_case(28, 1026, 28, 128)
        yield swiglu_case(28 * 1026, 18_944)
    else:
        yield from transition_cases(16, 9)
        yield from transition_cases(2, 1024)
        yield noise_case(2, 1024)
        for kind in (torch.float32, torch.bfloat16):
            yield from token_cases(512, 8000, 256, kind)
        yield norm_case(2048, 256, torch.float32)


def transition_cases(batch: int, tokens: int) -> Iterator[Case]:
    """A guided step: its rollout, and its replay with the backward."""
    x, other, cond, text = torch.randn(4, batch, tokens, 64, device=DEVICE).unbind()

    def eager(dtype: torch.dtype = torch.float32) -> Values:
        leaves = [leaf(v, dtype) for v in (cond, text)]
        velocity = guide(*leaves, text_scale=4.0, renorm="global")
        still = torch.zeros_like(velocity)
        _, mean, std = sde_step(x.to(dtype), velocity, noise=still, **STEP)
        if dtype == torch.float64:
            std = std.double()
        log_prob = transition_log_prob(other.to(dtype), mean, std, STEP["t_next"] - STEP["t"])
        log_prob.sum().backward()
        return {"log_prob": log_prob.detach(), "cond": grad(leaves[0]), "text": grad(leaves[1])}

    def ours() -> Values:
        leaves = [leaf(v) for v in (cond, text)]
        log_prob = replay_transition(x, other, leaves, guidance=GUIDANCE, **STEP).log_prob
        log_prob.sum().backward()
        return {"log_prob": log_prob.detach(), "cond": grad(leaves[0]), "text": grad(leaves[1])}

    seeds, samples = torch.full((batch,), 5, device=DEVICE), torch.arange(batch, device=DEVICE)

    @torch.no_grad()
    def eager_rollout() -> Values:
        velocity = guide(cond, text, text_scale=4.0, renorm="global")
        x_next, mean, std = sde_step(x, velocity, noise=torch.randn_like(x), **STEP)
        transition_log_prob(x_next, mean, std, STEP["t_next"] - STEP["t"])
        return {"mean": mean}

    @torch.no_grad()
    def our_rollout() -> Values:
        result = guided_transition(
            x, [cond, text], guidance=GUIDANCE, seeds=seeds, samples=samples, step=1, **STEP
        )
        return {"mean": result.mean}

    with torch.no_grad():
        doubles = [v.double() for v in (x, cond, text)]
        velocity = guide(*doubles[1:], text_scale=4.0, renorm="global")
        mean = sde_step(doubles[0], velocity, noise=torch.zeros_like(doubles[0]), **STEP)[1]
    shape, one = f"{batch} x {tokens} x 64, 2 branches", 4.0 * x.numel()
    yield Case(
        f"transition rollout, {shape}",
        {"eager": eager_rollout, "alphagrpo, noise included": our_rollout},
        Work(bytes=5 * one),
        {"mean": mean},
        calls=5,
    )
    yield Case(
        f"transition replay + backward, {shape}",
        {"eager": eager, "alphagrpo": ours},
        Work(bytes=11 * one),
        eager(torch.float64),
        calls=5,
    )


def noise_case(batch: int, tokens: int) -> Case:
    """The transition's noise alone, by torch's own generator and by ours in both forms."""
    size = tokens * 64
    seeds, samples = torch.full((batch,), 5, device=DEVICE), torch.arange(batch, device=DEVICE)
    zero = torch.zeros(batch, size, dtype=torch.int64, device=DEVICE)
    counter = (zero + torch.arange(size, device=DEVICE), zero + samples[:, None], zero + 1, zero)

    def by_torch() -> Values:
        return {"noise": normal(*torch_words(seeds[:, None], counter))}

    return Case(
        f"noise, {batch} x {tokens} x 64",
        {
            "eager randn": lambda: {"other": torch.randn(batch, size, device=DEVICE)},
            "alphagrpo": lambda: {"noise": gaussian_noise(seeds, samples, 1, (size,))},
            "alphagrpo, words by int64 torch": by_torch,
        },
        Work(bytes=4.0 * zero.numel()),
        {"noise": by_torch()["noise"].double()},
    )


def token_cases(tokens: int, vocabulary: int, width: int, kind: torch.dtype) -> Iterator[Case]:
    """Log-probability and entropy: read at rollout, and with the gradient of the hidden states."""
    hidden = torch.randn(tokens, width, device=DEVICE).to(kind)
    head = (torch.randn(vocabulary, width, device=DEVICE) / width**0.5).to(kind)
    targets = torch.randint(vocabulary, (tokens,), device=DEVICE)
    wide = head.float()

    def scored(h: Tensor, log_probs: Tensor, entropy: Tensor) -> Values:
        values = {"log_probs": log_probs.detach(), "entropy": entropy.detach()}
        if not torch.is_grad_enabled():
            return values
        (log_probs.sum() + 0.01 * entropy.sum()).backward()
        return values | {"hidden": grad(h)}

    def of_logits(h: Tensor, logits: Tensor) -> Values:
        log_probs = logits.log_softmax(-1)
        chosen = log_probs.gather(-1, targets[:, None])[:, 0]
        return scored(h, chosen, -(log_probs.exp() * log_probs).sum(-1))

    def eager() -> Values:
        h = leaf(hidden)
        return of_logits(h, h.float() @ wide.T)

    def eager_half() -> Values:
        h = leaf(hidden)
        return of_logits(h, (h @ head.T).float())

    def ours() -> Values:
        h = leaf(hidden)
        return scored(h, *token_log_probs(h, head, targets))

    def liger() -> Values:
        from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
            LigerFusedLinearScaledCrossEntropyFunction as Fused,
        )

        h = leaf(hidden)
        nll, entropy = Fused.apply(h, head, targets, 1.0, -100, 1, True)
        return scored(h, -nll, entropy.float())

    contenders: dict[str, Contender] = {"eager, float32 logits": eager}
    if kind != torch.float32:
        contenders[f"eager, {str(kind)[6:]} logits"] = eager_half
    contenders |= {"alphagrpo": ours, "liger": liger}
    truth = _token_truth(hidden, head, targets)
    element = hidden.element_size()
    read = element * (head.numel() + hidden.numel())
    product = 2.0 * tokens * vocabulary * width
    shape = f"T {tokens}, V {vocabulary}, D {width}, {str(kind)[6:]}"
    reading = {name: torch.no_grad()(run) for name, run in contenders.items()}
    yield Case(f"token log-probs, {shape}", reading, Work(read, product), truth)
    yield Case(
        f"token log-probs + dX, {shape}",
        contenders,
        Work(read + element * hidden.numel(), 2 * product),
        truth,
    )


def _token_truth(hidden: Tensor, head: Tensor, targets: Tensor) -> Values:
    weight = head.double()
    pieces: list[Values] = []
    for rows, ids in zip(hidden.split(TRUTH_ROWS), targets.split(TRUTH_ROWS), strict=True):
        h = leaf(rows, torch.float64)
        log_probs = (h @ weight.T).log_softmax(-1)
        chosen = log_probs.gather(-1, ids[:, None])[:, 0]
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        (chosen.sum() + 0.01 * entropy.sum()).backward()
        parts = {"log_probs": chosen.detach(), "entropy": entropy.detach(), "hidden": grad(h)}
        pieces.append(parts)
    return {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}


def _layer_case(
    name: str,
    inputs: tuple[Tensor, ...],
    eager: Callable[..., Tensor],
    ours: Callable[..., Tensor],
    moved: float,
) -> Case:
    """A layer's pass with its backward, the gradient of every input included."""
    with torch.no_grad():
        pull = torch.randn_like(eager(*inputs))

    def run(operation: Callable[..., Tensor], dtype: torch.dtype | None = None) -> Values:
        leaves = [leaf(tensor, dtype) for tensor in inputs]
        out = operation(*leaves)
        out.backward(pull.to(out.dtype))
        return {"out": out.detach()} | {f"grad {i}": grad(x) for i, x in enumerate(leaves)}

    contenders = {"eager": lambda: run(eager), "alphagrpo": lambda: run(ours)}
    return Case(name, contenders, Work(moved), run(eager, torch.float64), calls=5)


def norm_case(rows: int, width: int, kind: torch.dtype) -> Case:
    """RMS norm with a frozen weight."""
    x = torch.randn(rows, width, device=DEVICE).to(kind)
    weight = torch.rand(width, device=DEVICE).to(kind)

    def eager(x: Tensor) -> Tensor:
        return functional.rms_norm(x, (width,), weight.to(x.dtype), 1e-6)

    def ours(x: Tensor) -> Tensor:
        return rms_norm(x, weight, 1e-6)

    name = f"RMS norm + dX, {rows} x {width}, {str(kind)[6:]}"
    return _layer_case(name, (x,), eager, ours, 5.0 * x.numel() * x.element_size())


def rotary_case(batch: int, length: int, heads: int, width: int) -> Case:
    """Rotary positions of bfloat16 queries that share one position."""
    x = torch.randn(batch, length, heads, width, device=DEVICE).bfloat16()
    angle = torch.rand(batch, 1, 1, width, device=DEVICE)
    cos, sin = angle.cos(), angle.sin()

    def eager(x: Tensor) -> Tensor:
        return torch.addcmul(x * cos, torch.roll(x, width // 2, dims=-1), sin).to(x.dtype)

    def ours(x: Tensor) -> Tensor:
        return rotate(x, cos, sin, dtype=x.dtype)

    name = f"rotary + dX, {batch} x {length} x {heads} x {width}, bfloat16"
    return _layer_case(name, (x,), eager, ours, 4.0 * x.numel() * x.element_size())


def swiglu_case(rows: int, width: int) -> Case:
    """The gated activation of bfloat16 projections."""
    gate, up = torch.randn(2, rows, width, device=DEVICE).bfloat16().unbind()

    def eager(gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    name = f"SwiGLU + gradients, {rows} x {width}, bfloat16"
    return _layer_case(name, (gate, up), eager, swiglu, 8.0 * gate.numel() * gate.element_size())
