"""Decomposition and verification as programs over an engine; plain Python, no ray and no vllm.

``engine`` is what they ask of a model server, ``decomposition`` and ``dsg`` make questions,
``verification`` answers them with exact P(yes), ``store`` keeps question sets, ``cache`` verdicts.
"""
