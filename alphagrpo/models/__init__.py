"""Unified models: the protocol the mesh trains against, and BAGEL."""
