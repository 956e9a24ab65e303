"""The factory of the three miniature models: corpora, pre-training and measurement. Not shipped.

Run it as ``python -m miniature``. The world the models live in is :mod:`alphagrpo.shapes`.
"""
