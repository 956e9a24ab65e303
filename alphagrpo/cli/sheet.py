"""A sheet of scenes with their prompts, for people who want to see the miniature world."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from alphagrpo.seeds import derive

COLUMNS = 6
SCALE = 3
"""Pixels per picture pixel."""
CAPTION = 86
"""Pixels below each picture."""
GAP = 14
PAPER, INK = (250, 249, 246), (40, 42, 46)
CAPTION_COLUMNS = 25
"""Characters per caption line."""


def write_sheet(path: Path, num: int, seed: int) -> Path:
    """Draw ``num`` training prompts, half of them riddles, each with a scene of it."""
    from alphagrpo.shapes.render import render
    from alphagrpo.shapes.specs import sample_scene
    from alphagrpo.shapes.splits import prompts, spec_of
    from alphagrpo.shapes.world import SIZE

    side = SIZE * SCALE
    shown_prompts = [
        *prompts("train", "plain", (num + 1) // 2, seed),
        *prompts("train", "thought", max(num // 2, 1), seed),
    ][:num]
    rows = -(-len(shown_prompts) // COLUMNS)
    width = COLUMNS * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, rows * (side + CAPTION + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, prompt in enumerate(shown_prompts):
        rng = np.random.default_rng(derive("sheet", seed, prompt.id))
        picture = Image.fromarray(render(sample_scene(spec_of(prompt), rng)))
        row, column = divmod(index, COLUMNS)
        x, y = GAP + column * (side + GAP), GAP + row * (side + CAPTION + GAP)
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
        caption = "\n".join(textwrap.wrap(prompt.text, CAPTION_COLUMNS)[:6])
        draw.multiline_text((x, y + side + 5), caption, fill=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
