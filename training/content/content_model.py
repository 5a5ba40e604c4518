"""The content model: a prediction of item embeddings from title, categories and attributes.

It is a linear model over hashed features (:mod:`model_store.new_items.features`), fitted by ridge regression to the
embeddings of trained items. On held-out items of MovieLens-100K nothing beat it, neither an MLP nor products of
features (docs/LOG.md). Items with more interactions weigh more, because their embeddings are better.

The part of an embedding that is the item's content vector is not predicted: the model carries the encoder that made it.

Shapes: N items, F features of an item, d_s embedding width, of which c hold the content vector, M features that the
model knows.
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

from model_store.network.content_profile import content_vectors
from model_store.new_items.features import HASH_BUCKETS, Features
from training.content.content_encoder import ContentEncoder
from training.content.ridge import Ridge
from training.content.shared_features import entries_of, item_features, shared_features
from training.data.dataset import Dataset

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Ridge penalties that are tried on held-out items."""

HALF_WEIGHT_INTERACTIONS = 10.0
"""Interactions at which an item weighs half as much as an item with very many."""

FOLDS = 5
"""Parts of the items that are held out in turn."""

SELECTION_ITEMS = 5_000
"""Limit on the items, drawn by seed, that choose the penalty."""

FIT_ITEMS = 100_000
"""Limit on the items, drawn by seed, that the model is fitted to."""

NEAR = 20
"""Rank among all items up to which a held-out item's own embedding counts as found."""


@dataclass(frozen=True)
class ContentFit:
    """Quality of the predicted embeddings on held-out items; every item is held out once.

    Attributes:
        penalty: The penalty with the highest ``cosine``.
        features: M of the final model.
        cosine: Mean cosine of predicted and trained embeddings.
        mean_cosine: The same if every item is predicted to be the average item.
        near: Share of items that are among the :data:`NEAR` nearest to their predicted embedding.
    """

    penalty: float
    features: int
    cosine: float
    mean_cosine: float
    near: float

    def as_dict(self) -> dict[str, float]:
        """Return plain values."""
        return asdict(self)


class ContentModel(nn.Module):
    """Network that maps feature ids and weights to raw item embeddings. Unknown features add nothing.

    Args:
        known: Ids of the known features, ``[M]``.
        effects: Embedding that a feature of weight 1 adds, ``[M, d_s]``.
        mean: Embedding of an item without features, ``[d_s]``, before it is scaled to its length.
        length: Length of all predicted embeddings.
        content_dim: c, width of the last part of an embedding, which is a content vector.
        content_length: Length of that part, before the embedding is scaled to its length.
    """

    slots: Tensor
    effects: Tensor
    mean: Tensor
    length: Tensor
    content_length: Tensor

    def __init__(
        self,
        known: npt.NDArray[np.int64],
        effects: Tensor,
        mean: Tensor,
        length: Tensor,
        content_dim: int = 0,
        content_length: float = 0.0,
    ) -> None:
        super().__init__()
        self.content_dim = content_dim
        slots = torch.zeros(HASH_BUCKETS, dtype=torch.int32)
        slots[torch.from_numpy(known)] = torch.arange(1, len(known) + 1, dtype=torch.int32)
        self.register_buffer("slots", slots)
        self.register_buffer("effects", functional.pad(effects, (0, 0, 1, 0)))  # row 0: unknown features
        self.register_buffer("mean", mean)
        self.register_buffer("length", length)
        self.register_buffer("content_length", torch.tensor(content_length))

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Predict embeddings.

        Args:
            features: int64, each below ``HASH_BUCKETS``; padding may have any id; ``[N, F]``.
            weights: 0 for padding, ``[N, F]``.

        Returns:
            ``[N, d_s]``, in the scale that the tokenizer reads.
        """
        added = (self.effects[self.slots[features].long()] * weights[:, :, None]).sum(dim=1)
        embedding = self.mean + added
        if self.content_dim:
            learned, content = embedding.tensor_split([embedding.shape[1] - self.content_dim], dim=1)
            embedding = torch.cat([learned, content_vectors(content) * self.content_length], dim=1)
        return functional.normalize(embedding, dim=1) * self.length


class _Items(NamedTuple):
    """Items that a model is fitted to."""

    features: Sequence[Features]
    target: Tensor  # [N, d_s]
    weights: Tensor  # [N]

    def take(self, rows: npt.NDArray[np.int64]) -> _Items:
        """Return the items in the given rows."""
        return _Items([self.features[row] for row in rows.tolist()], self.target[rows], self.weights[rows])


def fit_content(
    data: Dataset, embeddings: Tensor, seed: int, encoder: ContentEncoder | None = None
) -> tuple[ContentModel, ContentFit]:
    """Fit a content model to trained items.

    Args:
        data: Items, and the number of training interactions of each.
        embeddings: Raw embeddings, ``[items, d_s]``, on any device.
        seed: Seed of the draw of items to fit to and to hold out.
        encoder: The one that made the last part of the embeddings; ``None`` if they hold no content vectors.
    """
    chosen = np.random.default_rng(seed).permutation(data.n_items)[:FIT_ITEMS]
    popularity = torch.from_numpy(data.popularity()[chosen]).float()
    features = item_features(data, chosen)
    weights = popularity / (popularity + HALF_WEIGHT_INTERACTIONS)
    items = _Items(features, embeddings.detach().cpu().float()[chosen], weights)

    # The penalty is chosen on held-out items, among a part of all items to save time.
    few = items.take(np.arange(min(len(chosen), SELECTION_ITEMS)))
    predicted, average = _predict_held_out(few, encoder)
    cosine = {penalty: _cosine(each, few.target) for penalty, each in predicted.items()}
    penalty = max(PENALTIES, key=lambda each: cosine[each])

    model = _Regression(items, encoder).solve(penalty)
    near = _share_near(predicted[penalty], few.target)
    return model, ContentFit(penalty, len(model.effects) - 1, cosine[penalty], _cosine(average, few.target), near)


def pad_features(features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Pad the features of N items for the content model: ids and weights ``[N, F]`` with F of at least 1."""
    widest = max((len(each.ids) for each in features), default=0)
    ids = torch.zeros(len(features), max(widest, 1), dtype=torch.int64)
    weights = torch.zeros(ids.shape)
    for row, each in enumerate(features):
        ids[row, : len(each.ids)] = torch.from_numpy(each.ids)
        weights[row, : len(each.ids)] = torch.from_numpy(each.weights)
    return ids, weights


class _Regression:
    """Ridge regression of some items, which can be solved with several penalties."""

    def __init__(self, items: _Items, encoder: ContentEncoder | None) -> None:
        width = items.target.shape[1]
        self._encoder = ContentEncoder.nothing() if encoder is None else encoder
        learned, content = items.target.tensor_split([width - self._encoder.width], dim=1)

        ids = np.concatenate([each.ids for each in items.features])
        self.known = shared_features(ids)
        entries = entries_of(items.features, self.known)
        self._ridge = Ridge(entries, (len(items.features), len(self.known)), items.weights)

        total = items.weights.sum().clamp(min=1e-6)
        self._mean = (items.weights[:, None] * learned).sum(0) / total
        self._length = float((items.weights * items.target.norm(dim=1)).sum() / total)
        self._content_length = float((items.weights * content.norm(dim=1)).sum() / total)
        self._centred = learned - self._mean

    def solve(self, penalty: float) -> ContentModel:
        """Return the model for one penalty."""
        learned = self._ridge.solve(self._centred, penalty)
        known = np.union1d(self.known, self._encoder.known)
        effects = torch.zeros(len(known), learned.shape[1] + self._encoder.width)
        effects[np.searchsorted(known, self.known), : learned.shape[1]] = learned
        effects[np.searchsorted(known, self._encoder.known), learned.shape[1] :] = self._encoder.effects

        mean = functional.pad(self._mean, (0, self._encoder.width))
        length = torch.tensor(self._length)
        return ContentModel(known, effects, mean, length, self._encoder.width, self._content_length)


def _predict_held_out(items: _Items, encoder: ContentEncoder | None) -> tuple[dict[float, Tensor], Tensor]:
    """Predict every item with models that were not fitted to it.

    Returns:
        The predictions by penalty, and the average item of the same models, ``[N, d_s]`` each.
    """
    fold = np.arange(len(items.features)) % FOLDS
    predicted = {penalty: torch.zeros_like(items.target) for penalty in PENALTIES}
    average = torch.zeros_like(items.target)

    for part in range(min(FOLDS, len(fold))):
        held_out = np.flatnonzero(fold == part)
        fitted = np.flatnonzero(fold != part)
        if not len(fitted):
            break  # there is a single item, and nothing to fit to

        regression = _Regression(items.take(fitted), encoder)
        features = pad_features(items.take(held_out).features)
        for penalty in PENALTIES:
            model = regression.solve(penalty)
            predicted[penalty][held_out] = model(*features)
            average[held_out] = model.mean

    return predicted, average


def _cosine(predicted: Tensor, target: Tensor) -> float:
    return float(functional.cosine_similarity(predicted, target).mean())


def _share_near(predicted: Tensor, target: Tensor) -> float:
    scores = functional.normalize(predicted, dim=1) @ functional.normalize(target, dim=1).T
    ahead = (scores > scores.diagonal()[:, None]).sum(dim=1)
    return float((ahead < NEAR).float().mean())
