"""Data set and configuration small enough to train completely in seconds: item i + 1 follows item i."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ITEMS = 30

CONTENT = 8
"""Numbers of an item's vector that hold what it says, in tests whose items say something: each width takes a trace."""

OVERRIDES = [
    "sasrec.embedding_dim=16",
    "sasrec.max_history=8",
    "sasrec.epochs=15",
    "sasrec.batch_tokens=128",
    "sasrec.learning_rate=1e-2",
    "model.tokenizer.embedding_dim=16",
    "model.tokenizer.hidden_dims=[16]",
    "model.tokenizer.codebook_dim=8",
    "model.tokenizer.codebook_size=8",
    "model.tokenizer.levels=2",
    "model.recommender.d_model=16",
    "model.recommender.d_ff=32",
    "model.recommender.heads=2",
    "model.recommender.head_dim=8",
    "model.recommender.encoder_layers=1",
    "model.recommender.decoder_layers=1",
    "model.recommender.max_history=8",
    "model.recommender.dropout=0.0",
    'model.recommender.user_encoder="shared"',  # SASRec keeps its larger shape, and one encoder learns it all
    "tokenizer.epochs=300",
    "joint.epochs=14",
    "joint.alignment_from=8",
    "joint.recommender_rate=1e-2",
    "joint.targets_per_batch=32",
    "finetune.epochs=3",
]


def set_options(extra: list[str] | None = None) -> list[str]:
    """Return the overrides as command-line options."""
    return [word for override in [*OVERRIDES, *(extra or [])] for word in ("--set", override)]


def write_cycle(path: Path, users: int = 80, length: int = 10, seed: int = 0) -> Path:
    """Write a `user item item …` file in which each user walks along the cycle from a random start."""
    rng = np.random.default_rng(seed)
    lines = [
        " ".join([f"u{user}", *(f"i{(start + step) % ITEMS}" for step in range(length))])
        for user, start in enumerate(rng.integers(0, ITEMS, users).tolist())
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
