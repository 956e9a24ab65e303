"""Sampling groups: think, denoise, score. Plain classes; the Ray shells are elsewhere."""
