"""The miniature policy: its corpus, its autoencoder, its pre-training and its figures."""
