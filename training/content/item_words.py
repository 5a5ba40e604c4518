"""Fit of the item words: the weightiest of the features that several items have, of every trained item."""

from __future__ import annotations

import numpy as np
import torch

from model_store.catalogue.resemblances import MOST_WORDS
from model_store.search.item_words import ItemWords
from training.content.shared_features import (
    KNOWN_FEATURES,
    entries_of,
    feature_rarity,
    item_features,
    rare_entries,
    shared_features,
)
from training.data.dataset import Dataset


def fit_item_words(data: Dataset) -> ItemWords:
    """Return the words of all trained items, at least one."""
    features = item_features(data)
    entries = entries_of(features, shared_features(np.concatenate([each.ids for each in features])))
    rarity = feature_rarity(entries.column, (data.n_items, KNOWN_FEATURES))
    entries = rare_entries(entries, rarity, data.n_items)
    words = ItemWords.nothing(data.n_items)

    # By item, then by descending weight; of equal weights the first column counts.
    order = torch.sort(entries.value, descending=True, stable=True).indices
    order = order[torch.sort(entries.row[order], stable=True).indices]
    row = entries.row[order].numpy()
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < MOST_WORDS

    place = row[kept], rank[kept]
    words.word[place] = entries.column[order].numpy()[kept]
    weight = np.zeros(words.weight.shape, dtype=np.float32)
    weight[place] = entries.value[order].numpy()[kept]
    length = np.sqrt(np.square(weight).sum(axis=1, keepdims=True))
    return ItemWords(words.word, (weight / np.where(length > 0, length, 1)).astype(np.float16))
