"""The learner: replay with the rollout's geometry, the GRPO step, and its state."""
