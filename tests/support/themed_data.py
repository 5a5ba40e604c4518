"""Users who stay with one theme each, and an untrained SASRec: what items say is all that can be known."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from training.content.content_encoder import fit_content_encoder
from training.content.shared_features import item_features
from training.data.dataset import Dataset, ItemInfo
from training.embedding.sasrec import Sasrec, SasrecConfig

THEMES = ("tea", "paint", "yarn", "bolts", "seeds", "chess")
ITEMS_PER_THEME = 40
SHAPE: dict[str, Any] = {"layers": 1, "heads": 2, "head_dim": 8, "d_ff": 16, "dropout": 0.0}
CONFIG = SasrecConfig(embedding_dim=16, max_history=8, **SHAPE)
CONTENT_DIM = 9


def themed(titles: bool, comes_back: bool = False) -> Dataset:
    """Return a data set of 90 users; titles tell the theme, or a number that means nothing.

    Args:
        titles: Whether titles tell the theme.
        comes_back: Whether users take the same two items in turn, instead of six items once.
    """
    random = np.random.default_rng(3)
    rows = []
    for user in range(90):
        theme = THEMES[user % len(THEMES)]
        chosen = random.choice(ITEMS_PER_THEME, 6, replace=False)
        chosen = np.tile(chosen[:2], 3) if comes_back else chosen
        rows += [(f"u{user}", f"{theme}{item}", step) for step, item in enumerate(chosen)]
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    names = {f"{theme}{item}": theme for theme in THEMES for item in range(ITEMS_PER_THEME)}
    info = {
        item_id: ItemInfo(f"{theme} number {random.integers(40)}" if titles else f"number {random.integers(40)}")
        for item_id, theme in names.items()
    }
    return Dataset.from_frame("themed", frame, info)


def untrained(data: Dataset) -> tuple[Sasrec, Tensor]:
    """Return an untrained SASRec and the content vectors of all items."""
    torch.manual_seed(0)
    features = item_features(data)
    encoder = fit_content_encoder(features, CONTENT_DIM, seed=1)
    assert encoder is not None
    return Sasrec(CONFIG, data.n_items).eval(), encoder.vectors(features)
