"""Held-out evaluation and the statistics of before against after."""
