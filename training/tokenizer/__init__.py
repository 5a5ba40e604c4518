"""Item tokenizer alone: RQ-VAE pretraining, and one semantic ID for each item."""
