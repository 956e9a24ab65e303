"""Pictures as bytes to pictures as the models take them.

Legend of shapes: B picture, H/W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """[B, H, W, 3] bytes to [B, 3, H, W] in [-1, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return values.float() / 127.5 - 1.0
