"""What rollout and learner both stand on: the policy, what it reads, thinks and draws, and replay.

Rollout and replay call the same functions with the same geometry, which is what makes their
log-probabilities equal bit for bit (docs/parity.md).
"""
