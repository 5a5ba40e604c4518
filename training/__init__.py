"""Offline training: data, item embeddings, tokenizer and recommender, evaluation, export, retraining."""

import os

# OpenMP threads that spin while they wait make training on a shared machine, and its neighbours, ten times slower.
# torch reads this once, when it loads its runtime. So it is set here, before any module of this package imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
