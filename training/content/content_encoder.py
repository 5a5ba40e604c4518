"""The content encoder: what an item says, as a vector; items that say similar things have near vectors.

The features of :mod:`model_store.new_items.features` are weighted by their rarity (IDF), and their matrix is reduced by
a truncated singular value decomposition, which is latent semantic analysis (Deerwester et al. 1990). It is fitted on
the catalogue itself, so it needs no third-party weights and works in any language. The content model carries the
fitted encoder to the service, so that new items get the same numbers.

Shapes: N items, M known features, c width of content vectors, whose last number is a flag
(:mod:`model_store.network.content_profile`).
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
from training.content.shared_features import entries_of, shared_features

SINGULAR_POWER = 0.5
"""Power of the singular values by which directions are scaled: 1 leaves most of a vector to the few topics that divide
the catalogue best, 0 makes rare topics as loud as those."""

OVERSAMPLING = 16
"""Further directions that the decomposition follows, for exactness."""

SMALLEST_SHARE = 1e-4
"""Singular value, relative to the largest, below which a direction is rounding noise."""

_ENTRIES_AT_ONCE = 1 << 18

ITERATIONS = 4
"""Power iterations of the randomised decomposition (Halko et al. 2011)."""


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

    @classmethod
    def nothing(cls) -> Self:
        """Return an encoder of width 0."""
        return cls(np.empty(0, np.int64), torch.empty(0, 0))

    @property
    def width(self) -> int:
        """Width c of content vectors."""
        return self.effects.shape[1]

    def vectors(self, features: Sequence[Features]) -> Tensor:
        """Return the content vectors of items, ``[N, c]``."""
        entries = entries_of(features, self.known)
        rows = torch.zeros(len(features), self.effects.shape[1])
        for part in torch.arange(len(entries.row)).split(_ENTRIES_AT_ONCE):
            added = self.effects[entries.column[part]] * entries.value[part, None]
            rows.index_add_(0, entries.row[part], added)
        return content_vectors(rows)


def fit_content_encoder(features: Sequence[Features], width: int, seed: int) -> ContentEncoder | None:
    """Fit an encoder to a catalogue.

    Args:
        features: Of all items, N.
        width: c, at least 2; columns beyond the rank of the matrix are zeros.
        seed: Seed of the decomposition's start.

    Returns:
        ``None`` if no two items share a feature.
    """
    known = shared_features(np.concatenate([each.ids for each in features]))
    if not len(known):
        return None

    entries = entries_of(features, known)
    shape = (len(features), len(known))
    rarity = _rarity(entries.column, shape)
    value = entries.value * rarity[entries.column]
    length = torch.zeros(shape[0]).index_add_(0, entries.row, value.square()).sqrt()
    indices = torch.stack([entries.row, entries.column])
    values = value / length[entries.row]
    matrix = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True).coalesce()

    rank = min(width - 1 + OVERSAMPLING, *shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, singular, right = torch.svd_lowrank(matrix, q=rank, niter=ITERATIONS)
    kept = int((singular[: width - 1] > SMALLEST_SHARE * singular[0]).sum())
    directions = right[:, :kept] * singular[:kept] ** (SINGULAR_POWER - 1)
    return ContentEncoder(known, functional.pad(rarity[:, None] * directions, (0, width - kept)))


def _rarity(column: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the inverse document frequency of each known feature, ``[M]``, smoothed and at least 1."""
    count = torch.bincount(column, minlength=shape[1])
    return torch.log((1 + shape[0]) / (1 + count)) + 1
