"""The content encoder: what an item says, as a vector; items that say similar things have near vectors.

The features of :mod:`model_store.new_items.features` are weighted by their rarity (IDF), and their matrix is reduced by
a truncated singular value decomposition, which is latent semantic analysis (Deerwester et al. 1990). It is fitted on
the catalogue itself, so it needs no third-party weights and works in any language. The content model carries the
fitted encoder to the service, so that new items get the same numbers.

Where users bring vectors of their own, the first half of a content vector comes from those
(:mod:`training.content.own_vectors`); without titles, all of it.

Shapes: N items, M known features, c width of content vectors, whose last number is a flag
(:mod:`model_store.network.content_profile`), w width of users' own vectors, o numbers of a content vector that come
from those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from model_store.config import Section
from model_store.network.content_profile import content_vectors
from model_store.new_items.features import Features
from training.content.own_vectors import predict_vectors, reduce_vectors
from training.content.principal_directions import SINGULAR_POWER, principal_directions
from training.content.ridge import Entries
from training.content.shared_features import entries_of, feature_rarity, rare_entries, shared_features

_ENTRIES_AT_ONCE = 1 << 18


class ContentConfig(Section):
    """Settings of what the model reads of titles, categories and attributes."""

    dim: int = Field(
        128,
        ge=0,
        le=1024,
        description="c, numbers of an item's vector that hold what it says, beside sasrec.embedding_dim learned ones; "
        "0: items are known by their interactions alone",
    )

    @field_validator("dim")
    @classmethod
    def _has_room_for_a_flag(cls, dim: int) -> int:
        if dim == 1:
            raise ValueError("must be 0, or at least 2")
        return dim


class ContentEncoder(NamedTuple):
    """A fitted encoder: what each known feature adds to the content vector of an item that has it."""

    known: npt.NDArray[np.int64]  # [M], feature ids, ascending
    effects: Tensor  # [M, c]
    own: Tensor  # [N, o], first numbers of trained items that have a vector of the user's, zeros for the others

    @classmethod
    def nothing(cls) -> Self:
        """Return an encoder of width 0."""
        return cls(np.empty(0, np.int64), torch.empty(0, 0), torch.empty(0, 0))

    @property
    def width(self) -> int:
        """Width c of content vectors."""
        return self.effects.shape[1]

    def trained_vectors(self, features: Sequence[Features]) -> Tensor:
        """Return the content vectors of the items that the encoder was fitted to, ``[N, c]``."""
        rows = self._sums(features)
        is_given = self.own.square().sum(dim=1) > 0
        rows[is_given, : self.own.shape[1]] = self.own[is_given]
        return content_vectors(rows)

    def vectors(self, features: Sequence[Features]) -> Tensor:
        """Return the content vectors of any items by their features alone, as the service does, ``[items, c]``."""
        return content_vectors(self._sums(features))

    def _sums(self, features: Sequence[Features]) -> Tensor:
        return _sums(entries_of(features, self.known), self.effects, len(features))


def fit_content_encoder(
    features: Sequence[Features], width: int, seed: int, own_vectors: npt.NDArray[np.float32] | None = None
) -> ContentEncoder | None:
    """Fit an encoder to a catalogue.

    Args:
        features: Of all items, N.
        width: c, at least 2; columns beyond the rank of the matrix are zeros.
        seed: Seed of the decomposition's start.
        own_vectors: Vectors that users bring, ``[N, w]``, zeros where an item has none; ``None`` if there are none.

    Returns:
        ``None`` if no two items share a feature, and there are no vectors.
    """
    known = shared_features(np.concatenate([each.ids for each in features]))
    if not len(known) and own_vectors is None:
        return None

    room = width - 1
    own_width = 0 if own_vectors is None else room // 2 if len(known) else room
    entries = entries_of(features, known)
    shape = (len(features), len(known))
    said = _principal_effects(entries, shape, room - own_width, seed)
    if own_vectors is None:
        return ContentEncoder(known, functional.pad(said, (0, 1)), torch.empty(len(features), 0))

    # As long as what items say is on average, so that both halves count the same.
    lengths = _sums(entries, said, len(features)).norm(dim=1)
    length = lengths[lengths > 0].mean() if (lengths > 0).any() else 1.0
    own = reduce_vectors(torch.from_numpy(own_vectors), own_width, seed) * length
    predicted = predict_vectors(entries, shape, own) if len(known) else torch.empty(0, own_width)
    return ContentEncoder(known, functional.pad(torch.cat([predicted, said], dim=1), (0, 1)), own)


def _principal_effects(entries: Entries, shape: tuple[int, int], width: int, seed: int) -> Tensor:
    """Return what each feature adds to the principal components of the matrix of items and features ``[M, width]``."""
    if not shape[1]:
        return torch.empty(0, width)
    rarity = feature_rarity(entries.column, shape)
    indices = torch.stack([entries.row, entries.column])
    values = rare_entries(entries, rarity, shape[0]).value
    matrix = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True).coalesce()

    _, singular, right = principal_directions(matrix, width, seed)
    directions = right * singular ** (SINGULAR_POWER - 1)
    return functional.pad(rarity[:, None] * directions, (0, width - len(singular)))


def _sums(entries: Entries, effects: Tensor, items: int) -> Tensor:
    """Return what the features of each item add up to, ``[items, …]``."""
    sums = torch.zeros(items, effects.shape[1])
    for part in torch.arange(len(entries.row)).split(_ENTRIES_AT_ONCE):
        sums.index_add_(0, entries.row[part], effects[entries.column[part]] * entries.value[part, None])
    return sums
