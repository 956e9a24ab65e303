"""Pictures that refinements and edits begin from: their form, and how the model sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alphagrpo.config.schema import TaskConfig
from alphagrpo.errors import BadImage
from alphagrpo.models.unified import UnifiedModel
from alphagrpo.policy.contexts import ImageConditions
from alphagrpo.types import GivenImage, ImageSegment

Start = GivenImage | ImageSegment
"""A picture that was given, or one that the policy drew in an earlier round."""


def image_conditions(
    starts: Sequence[Start], grid: tuple[int, int], model: UnifiedModel
) -> ImageConditions:
    """B pictures as the model is shown them; drawn ones by the latents they were decoded from."""
    device = model.empty_context(1).mask.device
    latents = [s.latents if isinstance(s, GivenImage) else s.final_latents for s in starts]
    return ImageConditions(
        torch.from_numpy(np.stack(latents)).to(device),
        np.stack([start.pixels for start in starts]),
        grid,
    )


def check_start(start: GivenImage, task: TaskConfig, grid: tuple[int, int], channels: int) -> None:
    """Raise BadImage unless ``start`` is a colour picture of the run's size with its latents."""
    expected = (task.height, task.width, 3)
    if start.pixels.shape != expected or start.pixels.dtype != np.uint8:
        raise BadImage(
            f"a picture to refine or edit is {expected[0]} x {expected[1]} pixels of 3 bytes, got "
            f"{start.pixels.dtype} {list(start.pixels.shape)}; convert it to RGB and resize it"
        )
    tokens = (grid[0] * grid[1], channels)
    if start.latents.shape != tokens:
        raise BadImage(
            f"the latents of a picture to refine are {list(tokens)}, got "
            f"{list(start.latents.shape)}; they belong to another size or model: encode it again"
        )
    if not np.isfinite(start.latents).all():
        raise BadImage(
            "the latents of a picture to refine must be finite, some are not; encode it again"
        )


def encode_start(model: UnifiedModel, pixels: np.ndarray, task: TaskConfig) -> GivenImage:
    """A picture [H, W, 3] of bytes from outside, with the mean of its encoding as latents.

    The mean, since a sampled encoding would make another condition of the same picture each time.
    Raises BadImage as :func:`check_start`.
    """
    side = model.pixels_per_token
    grid = (task.height // side, task.width // side)
    nought = np.zeros((grid[0] * grid[1], model.latent_channels), np.float32)
    check_start(GivenImage(latents=nought, pixels=pixels), task, grid, model.latent_channels)
    device = model.empty_context(1).mask.device
    scaled = torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        latents = model.encode_pixels(scaled / 127.5 - 1.0)[0].float().cpu().numpy()
    return GivenImage(latents=latents, pixels=pixels)
