"""The miniature BAGEL: its corpus, its pre-training, and what it can do."""
