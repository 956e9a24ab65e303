"""Shapes: the miniature world of pictures, prompts, questions and an oracle that reads pixels.

Pictures are 48 x 48, a 3 x 3 lattice of 16-pixel cells: one BAGEL latent token per cell. ``splits``
is where prompts come from, ``render`` draws, ``questions`` asks, ``oracle`` answers.
"""
