"""The miniature judges: decomposer and verifier, their pre-training and their figures."""
