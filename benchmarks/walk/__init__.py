"""From a laptop to a cluster, walked: `python -m benchmarks.walk`."""
