"""The grid of times along which a picture is drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted_times(num_points: int, shift: float) -> Tensor:
    """Times from 1 (noise) to 0 (data), shifted towards the noisy end.

    ``u_i = 1 - i / (num_points - 1)`` and ``t_i = shift u_i / (1 + (shift - 1) u_i)``
    (BAGEL, section on inference; method: section 10, "timesteps").

    Args:
        num_points: N >= 2. N points are N - 1 steps, and as many evaluations of the model.
        shift: > 0; 1 leaves the times evenly spaced, 3 is BAGEL's value.

    Returns:
        [N] float32, strictly decreasing, first 1 and last 0.

    Raises:
        ValueError: for fewer than two points or a shift that is not positive.
    """
    if num_points < 2:
        raise ValueError(
            f"a schedule needs at least 2 points (one step), got {num_points}; raise the number"
        )
    if not shift > 0:
        raise ValueError(f"the timestep shift must be positive, got {shift}; BAGEL uses 3.0")
    u = torch.linspace(1.0, 0.0, num_points, dtype=torch.float32)
    times = shift * u / (1.0 + (shift - 1.0) * u)
    # Rounding may miss 1 by a bit for some shifts, and the SDE treats exactly t = 1 apart.
    times[0] = 1.0
    return times
