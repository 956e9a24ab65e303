"""The miniature verifier: a small Idefics3 that learns to answer questions about scenes."""
