"""Ray shells round the plain classes of :mod:`alphagrpo`: runners, learner, weights, front door.

Everything that can be tested without Ray is in the library; here are names, resources, references
and what happens when a process dies.
"""
