"""Index of the trained items by what they say, from which new items learn who wants them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_store.new_items.similar_items import SimilarItems
from training.content.shared_features import (
    entries_of,
    feature_rarity,
    item_features,
    rare_entries,
    shared_features,
)
from training.data.dataset import Dataset

_LARGEST = 127  # of an int8


def fit_similar_items(data: Dataset, embeddings: Tensor, content_dim: int) -> SimilarItems:
    """Build the index of all trained items.

    Args:
        data: Its items, N, at least one.
        embeddings: Raw embeddings, ``[N, d_s]``, on any device.
        content_dim: c, width of their last part, which is a content vector; 0 if they have none.
    """
    features = item_features(data)
    known = shared_features(np.concatenate([each.ids for each in features]))
    entries = entries_of(features, known)
    rarity = feature_rarity(entries.column, (len(features), len(known)))

    weight = rare_entries(entries, rarity, len(features)).value.clamp(min=torch.finfo(torch.float16).tiny).half()

    by_feature = torch.sort(entries.column, stable=True).indices  # entries are ordered by row, and stay so within one
    count = torch.bincount(entries.column, minlength=len(known))
    rows = embeddings.detach().cpu().float()
    learned, content = rows.tensor_split([rows.shape[1] - content_dim], dim=1)
    return SimilarItems(
        known=known,
        rarity=rarity.numpy(),
        start=np.concatenate([[0], count.cumsum(0).numpy()]).astype(np.int64),
        item=entries.row[by_feature].to(torch.int32).numpy(),
        weight=weight[by_feature].numpy(),
        directions=_directions(learned).numpy(),
        learned_length=float(learned.norm(dim=1).mean()),
        content_length=float(content.norm(dim=1).mean()),
    )


def _directions(vectors: Tensor) -> Tensor:
    """Return directions of vectors ``[N, w]`` as int8, the largest number of each being 127 or -127."""
    return (functional.normalize(vectors, dim=1, p=float("inf")) * _LARGEST).round().to(torch.int8)
