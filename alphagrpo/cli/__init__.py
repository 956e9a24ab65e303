"""The commands: where everything is wired together, and the one place here that may import ray."""
