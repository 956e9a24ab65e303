"""Serve shells round the plain judging library: decomposer, verifier, gateway, and their client.

Each service is a Ray Serve application of its own, reached by handle (``client``) or over HTTP
(``gateway``). What they do is in :mod:`alphagrpo.judging`; here is only how they are served.
"""
