"""BAGEL's rule for the size a picture is resized to before it is read. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PIXELS = 14 * 14 * 9 * 1024
"""Largest area the released transforms allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeRule:
    """Bounds of a picture's sides in pixels.

    Example: ``ResizeRule(max_size=1024, min_size=512, stride=16)``, before the autoencoder.
    """

    max_size: int
    """Largest long side."""
    min_size: int
    """Smallest short side, where ``max_size`` and ``max_pixels`` leave room for it."""
    stride: int
    """Both sides become multiples of this."""
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if min(self.max_size, self.min_size, self.stride, self.max_pixels) < 1:
            raise ValueError(f"all bounds of a resize rule must be positive, got {self}")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after resizing a picture of ``width`` by ``height``.

        The scale is ``max(min(max_size / long, 1), min_size / short)``. A picture over
        ``max_pixels`` is scaled again by the ratio of the areas (not its root, as released), and
        one whose long side is still over ``max_size`` by the ratio of the sides.

        Raises:
            ValueError: a side is not positive.
        """
        if width < 1 or height < 1:
            raise ValueError(f"a picture needs positive sides, got {width}x{height}")
        scale = min(self.max_size / max(width, height), 1.0)
        scale = max(scale, self.min_size / min(width, height))
        width, height = self._scaled(width, height, scale)
        if width * height > self.max_pixels:
            width, height = self._scaled(width, height, self.max_pixels / (width * height))
        if max(width, height) > self.max_size:
            width, height = self._scaled(width, height, self.max_size / max(width, height))
        return width, height

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        return self._on_stride(round(width * scale)), self._on_stride(round(height * scale))

    def _on_stride(self, side: int) -> int:
        return max(self.stride, round(side / self.stride) * self.stride)
