"""The content model: what an item's embedding would be, told by its title, categories and attributes alone.

A linear model over hashed features (:mod:`model_store.new_items.features`), fitted by ridge regression to the
embeddings of trained items. On held-out items of MovieLens-100K nothing beat it, neither an MLP nor products of
features (docs/LOG.md). Items weigh the more, the more interactions their embeddings have seen.

Shapes: N items, F features of an item, d_s embedding width, M features that the model knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.new_items.features import HASH_BUCKETS, Features, extract_features
from training.content.ridge import Entries, Ridge
from training.data.dataset import Dataset

KNOWN_FEATURES = 1 << 15
"""M at most, the most frequent ones: 32 MiB at a width of 256."""

MIN_ITEMS = 2
"""Items that must share a feature before it is learned; what one item alone has tells nothing of others."""

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Ridge penalties that are tried on held-out items."""

TRUSTED = 10.0
"""Interactions at which an item weighs half as much as one with very many."""

FOLDS, SELECTION_ITEMS, FIT_ITEMS = 5, 5_000, 100_000
"""Parts of the items that are held out in turn; items at most, drawn by seed, to choose a penalty and to fit."""

NEAR = 20
"""Place among all items up to which a held-out item's own embedding counts as found."""


@dataclass(frozen=True)
class ContentFit:
    """How well content tells the embeddings of items that were held out, each once.

    Attributes:
        penalty: The one with the highest ``cosine``.
        features: M of the final model.
        cosine: Of predicted and trained embeddings, on average.
        mean_cosine: The same if every item is predicted to be the average one.
        near: Share of items that are among the :data:`NEAR` nearest to what was predicted for them.
    """

    penalty: float
    features: int
    cosine: float
    mean_cosine: float
    near: float

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


class ContentModel(nn.Module):
    """Feature ids and weights to raw item embeddings. Features that it does not know add nothing.

    Args:
        known: Feature ids, ``[M]``.
        effects: What a feature of weight 1 adds, ``[M, d_s]``.
        mean: What an item without any has, ``[d_s]``, before it gets its length.
        length: Of all embeddings.
    """

    slots: Tensor
    effects: Tensor
    mean: Tensor
    length: Tensor

    def __init__(self, known: npt.NDArray[np.int64], effects: Tensor, mean: Tensor, length: Tensor) -> None:
        super().__init__()
        slots = torch.zeros(HASH_BUCKETS, dtype=torch.int32)
        slots[torch.from_numpy(known)] = torch.arange(1, len(known) + 1, dtype=torch.int32)
        self.register_buffer("slots", slots)
        self.register_buffer("effects", functional.pad(effects, (0, 0, 1, 0)))  # row 0: what is not known
        self.register_buffer("mean", mean)
        self.register_buffer("length", length)

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Predict embeddings.

        Args:
            features: int64, each below ``HASH_BUCKETS``, padded with any, ``[N, F]``.
            weights: 0 where padded, ``[N, F]``.

        Returns:
            ``[N, d_s]``, of the scale that the tokenizer reads.
        """
        added = (self.effects[self.slots[features].long()] * weights[:, :, None]).sum(dim=1)
        return functional.normalize(self.mean + added, dim=1) * self.length


class _Items(NamedTuple):
    """Items to fit to."""

    features: Sequence[Features]
    target: Tensor  # [N, d_s]
    weights: Tensor  # [N]

    def take(self, rows: npt.NDArray[np.int64]) -> _Items:
        """Some of them."""
        return _Items([self.features[row] for row in rows.tolist()], self.target[rows], self.weights[rows])


def has_content(data: Dataset) -> bool:
    """Whether anything but ids is known of the items."""
    return any(data.titles) or any(data.categories) or any(data.attributes)


def fit_content(data: Dataset, embeddings: Tensor, seed: int) -> tuple[ContentModel, ContentFit]:
    """Fit a content model to trained items.

    Args:
        data: What is known of the items, and how often each was trained on.
        embeddings: Raw, ``[items, d_s]``, on any device.
        seed: Of the items that are drawn and held out.
    """
    chosen = np.random.default_rng(seed).permutation(data.n_items)[:FIT_ITEMS]
    popularity = torch.from_numpy(data.popularity()[chosen]).float()
    features = [
        extract_features(data.titles[row], data.categories[row], data.attributes[row]) for row in chosen.tolist()
    ]
    items = _Items(features, embeddings.detach().cpu().float()[chosen], popularity / (popularity + TRUSTED))
    few = items.take(np.arange(min(len(chosen), SELECTION_ITEMS)))
    predicted, average = _held_out(few)
    cosine = {penalty: _cosine(each, few.target) for penalty, each in predicted.items()}
    penalty = max(PENALTIES, key=lambda each: cosine[each])
    model = _Fit(items).model(penalty)
    near = _share_near(predicted[penalty], few.target)
    return model, ContentFit(penalty, len(model.effects) - 1, cosine[penalty], _cosine(average, few.target), near)


def padded(features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Features of N items as the content model reads them: ids and weights ``[N, F]``, at least one place wide."""
    widest = max((len(each.ids) for each in features), default=0)
    ids = torch.zeros(len(features), max(widest, 1), dtype=torch.int64)
    weights = torch.zeros(ids.shape)
    for row, each in enumerate(features):
        ids[row, : len(each.ids)] = torch.from_numpy(each.ids)
        weights[row, : len(each.ids)] = torch.from_numpy(each.weights)
    return ids, weights


class _Fit:
    """The regression of some items, to be solved under several penalties."""

    def __init__(self, items: _Items) -> None:
        row = np.repeat(np.arange(len(items.features)), [len(each.ids) for each in items.features])
        ids = np.concatenate([each.ids for each in items.features])
        value = np.concatenate([each.weights for each in items.features])
        self.known = _shared(ids)
        column = np.searchsorted(self.known, ids).clip(max=max(len(self.known) - 1, 0))
        is_known = self.known[column] == ids if len(self.known) else np.zeros(len(ids), dtype=np.bool_)
        parts = (torch.from_numpy(part[is_known]) for part in (row, column, value))
        self._ridge = Ridge(Entries(*parts), (len(items.features), len(self.known)), items.weights)
        total = items.weights.sum().clamp(min=1e-6)
        self._mean = (items.weights[:, None] * items.target).sum(0) / total
        self._length = (items.weights * items.target.norm(dim=1)).sum() / total
        self._centred = items.target - self._mean

    def model(self, penalty: float) -> ContentModel:
        """The model under one penalty."""
        return ContentModel(self.known, self._ridge.solve(self._centred, penalty), self._mean, self._length)


def _shared(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Features that several items have, the most frequent ones if there are too many, ascending."""
    known, count = np.unique(ids, return_counts=True)
    order = np.argsort(-count, kind="stable")[:KNOWN_FEATURES]
    return np.asarray(np.sort(known[order[count[order] >= MIN_ITEMS]]))


def _held_out(items: _Items) -> tuple[dict[float, Tensor], Tensor]:
    """What models under each penalty predict for items that they were not fitted to, and the average item then."""
    fold = np.arange(len(items.features)) % FOLDS
    predicted = {penalty: torch.zeros_like(items.target) for penalty in PENALTIES}
    average = torch.zeros_like(items.target)
    for part in range(min(FOLDS, len(fold))):
        left, fitted = np.flatnonzero(fold == part), np.flatnonzero(fold != part)
        if not len(fitted):
            break  # a single item, which nothing tells anything of
        fit, asked = _Fit(items.take(fitted)), padded(items.take(left).features)
        for penalty in PENALTIES:
            model = fit.model(penalty)
            predicted[penalty][left], average[left] = model(*asked), model.mean
    return predicted, average


def _cosine(predicted: Tensor, target: Tensor) -> float:
    return float(functional.cosine_similarity(predicted, target).mean())


def _share_near(predicted: Tensor, target: Tensor) -> float:
    scores = functional.normalize(predicted, dim=1) @ functional.normalize(target, dim=1).T
    ahead = (scores > scores.diagonal()[:, None]).sum(dim=1)
    return float((ahead < NEAR).float().mean())
