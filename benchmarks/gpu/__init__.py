"""One card, one command: ``python -m benchmarks.gpu``."""
