"""Log-probabilities of sampled tokens from hidden states, without keeping the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from alphagrpo.kernels import reference
from alphagrpo.kernels.dispatch import Backend, use_triton


def token_log_probs(
    hidden: Tensor, head: Tensor, targets: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """``log softmax(head hidden)[target]`` and the softmax's entropy, per token.

    The softmax is unfiltered and at temperature 1 (method: section 2.3, "Text log-probs"), in
    float32: half-precision inputs are multiplied exactly and summed in float32, so that a head kept
    in bfloat16 gives what its float32 copy gives. Differentiable in ``hidden`` alone; the head is
    frozen. docs/kernels.md says which pairs of types tensor cores multiply.

    Tolerance to float64: 2e-6 of the largest |logit| + 1; gradients 1e-5 of their largest entry,
    or the rounding to the type of ``hidden`` (bfloat16: 4e-3).

    Args:
        hidden: [T, D] after the final norm, float32, bfloat16 or float16.
        head: [V, D], of any of these types.
        targets: [T] int64 in [0, V).
        backend: ``auto`` takes Triton for CUDA tensors.

    Returns:
        ``(log_probs, entropy)``, both [T] float32; entropy in nats.

    Raises:
        ValueError: for shapes other than these, or a head that expects a gradient, which it would
            silently not get.
    """
    if hidden.ndim != 2 or head.ndim != 2 or hidden.shape[1] != head.shape[1]:
        raise ValueError(
            f"hidden must be [T, D] and head [V, D], got {tuple(hidden.shape)} and "
            f"{tuple(head.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets must be [{hidden.shape[0]}], one per hidden state, got {tuple(targets.shape)}"
        )
    if head.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "token_log_probs gives the head no gradient, but this head requires one; freeze it, "
            "or compute the logits to train it"
        )
    if use_triton(backend, hidden.device):
        from alphagrpo.kernels.launch_tokens import token_log_probs as launch

        return launch(hidden, head, targets)
    return reference.token_log_probs(hidden, head, targets)
