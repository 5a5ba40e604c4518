"""Offline: data, item embeddings, tokenizer and recommender trained jointly, evaluation, export, retraining."""

import os

# OpenMP threads that spin while they wait make training on a shared machine ten times slower, and its neighbours too.
# Read once when torch loads its runtime, so it is set here, before any module of this package imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
