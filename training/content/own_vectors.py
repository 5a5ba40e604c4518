"""Users' own vectors in content vectors: reduced to few numbers, and predicted for items that have none.

An encoder of text or images gives hundreds of numbers, of which most say little about one catalogue. Their principal
components are scaled like those of what items say (:mod:`training.content.content_encoder`). Items without a vector,
and new items in the service, get what a ridge regression predicts from title, categories and attributes.

Shapes: N items, w width of users' vectors, o of what is kept of them, M known features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.content.principal_directions import SINGULAR_POWER, principal_directions
from training.content.ridge import Entries, Ridge

PENALTY = 10.0
"""Ridge penalty of the prediction; one that is too large only makes it short, so that what items say counts more."""


def reduce_vectors(vectors: Tensor, width: int, seed: int) -> Tensor:
    """Return the principal components of vectors ``[N, w]`` at unit length, ``[N, o]``; zeros stay zeros.

    Args:
        vectors: Of any finite length; only directions count.
        width: o.
        seed: Seed of the decomposition's start.
    """
    reduced = torch.zeros(len(vectors), width)
    is_given = vectors.any(dim=1)
    if not is_given.any():
        return reduced

    # Squares of very small or large numbers are beyond 32 bits, so each vector's largest number becomes 1 first.
    given = vectors[is_given]
    unit = functional.normalize(given / given.abs().amax(dim=1, keepdim=True), dim=1)
    left, singular, _ = principal_directions(unit - unit.mean(dim=0), width, seed)
    components = functional.normalize(left * singular**SINGULAR_POWER, dim=1)
    reduced[is_given, : components.shape[1]] = components
    return reduced


def predict_vectors(entries: Entries, shape: tuple[int, int], reduced: Tensor) -> Tensor:
    """Return what each feature adds to the reduced vector of an item, ``[M, o]``, fitted to the items that have one.

    Args:
        entries: The features of all items.
        shape: N and M.
        reduced: ``[N, o]``, zeros where an item has no vector.
    """
    weights = (reduced.square().sum(dim=1) > 0).to(reduced.dtype)
    return Ridge(entries, shape, weights).solve(reduced, PENALTY)
