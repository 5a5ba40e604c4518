"""Assignment of one semantic ID to each item, and resolution of collisions between items with the same codes.

The policy ``reassign`` gives every item the nearest free code tuple, or where hardly any is free the nearest code of
each level below which there is room. The policy ``token`` appends a code that tells collided items apart, at most K of
them per tuple. Both are one procedure with a capacity per tuple: 1, or K. No two items are ever merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.errors import CatalogueError
from model_store.network.tokenizer import squared_distances

Codes = npt.NDArray[np.int16]

NEAREST = 32
"""Nearest tuples of an item that are tried before it is placed level by level."""

DISTANCES_AT_ONCE = 1 << 24
"""Maximum number of distances in memory at a time, 64 MiB."""


@dataclass(frozen=True)
class Assignment:
    """Semantic IDs of all items, with statistics of their collisions.

    Attributes:
        codes: ``[items, L]``, unique rows.
        collision_rate: Share of items whose nearest tuple is also another item's.
        largest_group: Number of items that share the most crowded nearest tuple.
        moved: Number of items that do not have their nearest tuple.
    """

    codes: Codes
    collision_rate: float
    largest_group: int
    moved: int


def assign_codes(
    latents: Tensor,
    codebooks: Tensor,
    policy: Literal["reassign", "token"],
    incumbent: Codes | None = None,
    stickiness: float = 0.0,
) -> Assignment:
    """Give every item its semantic ID.

    Items closest to their tuple choose first, and ties go by row, so the result is deterministic.

    An item that has codes already moves only if that brings it clearly closer. After a little training, most moves
    would be between tuples that fit about equally well: they gain nothing, and the recommender has to learn them anew.

    Args:
        latents: r, ``[items, d_c]``.
        codebooks: ``[levels, K, d_c]``.
        policy: See the module's docstring.
        incumbent: Codes that items have now, ``[items, L]``.
        stickiness: An item keeps its codes while their squared distance is at most this share above the nearest
            tuple's; 0: present codes are ignored.

    Raises:
        CatalogueError: There are more items than code tuples can hold.
    """
    levels, size, _ = codebooks.shape
    capacity = 1 if policy == "reassign" else size
    if len(latents) > size**levels * capacity:
        raise CatalogueError(
            f"{len(latents)} items do not fit into {levels} levels of {size} codes",
            "raise model.tokenizer.codebook_size or model.tokenizer.levels",
        )

    greedy = [nearest_tuples(part, codebooks, 1) for part in latents.split(_items_at_once(size, 1))]
    nearest = torch.cat([codes[:, 0] for codes, _ in greedy]).numpy()
    error = torch.cat([distance[:, 0] for _, distance in greedy])

    # An item's first choice is its nearest tuple, or the one that it has if that is nearly as close.
    first_choice = nearest
    if incumbent is not None and stickiness:
        present = torch.from_numpy(incumbent[:, :levels].astype(np.int64))
        distance = _squared_error(latents, codebooks, present)
        stays = distance <= (1 + stickiness) * error
        first_choice = np.where(stays.numpy()[:, None], present.numpy(), nearest)
        error = torch.where(stays, distance, error)

    _, group, count = np.unique(nearest, axis=0, return_inverse=True, return_counts=True)
    placed = _place_greedily(latents, codebooks, error, first_choice, capacity)
    codes = placed if policy == "reassign" else np.column_stack([placed, _rank_in_group(placed)])
    return Assignment(
        codes=codes.astype(np.int16),
        collision_rate=float((count[group.ravel()] > 1).mean()),
        largest_group=int(count.max()),
        moved=int((placed != nearest).any(axis=1).sum()),
    )


def nearest_tuples(latents: Tensor, codebooks: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Find the ``width`` best code tuples of each latent by residual beam search, nearest first.

    With width 1 this is greedy residual quantisation, the tokenizer's own choice.

    Returns:
        Codes ``[items, width, levels]`` and squared distances between latent and sum of codes ``[items, width]``;
        fewer than ``width`` if fewer tuples exist.
    """
    residual = latents[:, None]
    codes = torch.empty(len(latents), 1, 0, dtype=torch.int64)
    error = residual.new_zeros(len(latents), 1)
    for codebook in codebooks:
        items, beams, width_c = residual.shape
        distance = squared_distances(residual.reshape(-1, width_c), codebook).view(items, beams * len(codebook))
        error, pick = distance.topk(min(width, distance.shape[1]), dim=1, largest=False)

        parent = pick // len(codebook)
        code = pick % len(codebook)
        codes = torch.cat([codes.gather(1, parent[:, :, None].expand(-1, -1, codes.shape[2])), code[:, :, None]], 2)
        residual = residual.gather(1, parent[:, :, None].expand(-1, -1, width_c)) - codebook[code]
    return codes, error.clamp(min=0)


def _squared_error(latents: Tensor, codebooks: Tensor, codes: Tensor) -> Tensor:
    """Return the squared distance ``[items]`` between each latent and the sum of its codes ``[items, levels]``."""
    quantised = sum((book[codes[:, level]] for level, book in enumerate(codebooks)), torch.zeros_like(latents))
    return (latents - quantised).square().sum(dim=1)


def _place_greedily(latents: Tensor, codebooks: Tensor, error: Tensor, first_choice: Codes, capacity: int) -> Codes:
    """Give each item its first choice or, where that is full, another tuple: one of its nearest, or by level.

    An item with many others of the same first choice before it will find none of its nearest tuples free, and is not
    made to look: thousands of items that say the same would each look at thousands of tuples.
    """
    order = np.argsort(error.numpy(), kind="stable")
    placed = first_choice.copy()
    occupancy: dict[bytes, int] = {}
    unplaced = np.array([row for row in order.tolist() if not _claim(occupancy, first_choice[row], capacity)], np.int64)

    is_crowded = _rank_in_group(first_choice[unplaced]) >= NEAREST
    crowded = np.zeros(len(placed), dtype=np.bool_)
    crowded[unplaced[is_crowded]] = True
    for row, options in _nearest_options(latents, codebooks, unplaced[~is_crowded].tolist(), NEAREST):
        found = next((option for option in options if _claim(occupancy, option, capacity)), None)
        if found is None:
            crowded[row] = True
        else:
            placed[row] = found

    rest = order[crowded[order]]
    if len(rest):
        room = _Room(placed[~crowded], codebooks, capacity)
        for row, latent in zip(rest.tolist(), latents[torch.from_numpy(rest)].numpy(), strict=True):
            placed[row] = room.claim(latent)
    return placed


class _Room:
    """The places that are left below each prefix of codes.

    Args:
        taken: Tuples that are taken, ``[n, levels]``, as often as they are.
        codebooks: ``[levels, K, d_c]``.
        capacity: Items that may share a tuple.
    """

    def __init__(self, taken: Codes, codebooks: Tensor, capacity: int) -> None:
        self._books = codebooks.numpy()
        levels, self._size, _ = self._books.shape
        self._limits = [capacity * self._size ** (levels - depth) for depth in range(1, levels + 1)]
        self._taken: list[dict[int, int]] = []
        prefix = np.zeros(len(taken), dtype=np.int64)
        for level in range(levels):
            prefix = prefix * self._size + taken[:, level]
            keys, counts = np.unique(prefix, return_counts=True)
            self._taken.append(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    def claim(self, latent: npt.NDArray[np.float32]) -> list[int]:
        """Take a place, level by level the nearest code below which one is left, and return the codes."""
        codes = []
        prefix = 0
        for book, taken, limit in zip(self._books, self._taken, self._limits, strict=True):
            first = prefix * self._size
            nearest = np.square(latent - book).sum(axis=1).argsort(kind="stable").tolist()
            code = next(each for each in nearest if taken.get(first + each, 0) < limit)
            prefix = first + code
            taken[prefix] = taken.get(prefix, 0) + 1
            latent = latent - book[code]
            codes.append(code)
        return codes


def _nearest_options(
    latents: Tensor, codebooks: Tensor, rows: list[int], width: int
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield each row with its ``width`` nearest tuples, found for a few rows at a time, so that memory is bounded."""
    step = _items_at_once(codebooks.shape[1], width)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield from zip(part, nearest_tuples(latents[part], codebooks, width)[0].numpy(), strict=True)


def _items_at_once(codebook_size: int, width: int) -> int:
    return max(1, DISTANCES_AT_ONCE // (codebook_size * width))


def _claim(occupancy: dict[bytes, int], codes: Codes, capacity: int) -> bool:
    """Take a place in a tuple if it has one left, and return whether it had."""
    key = codes.tobytes()
    used = occupancy.get(key, 0)
    if used >= capacity:
        return False
    occupancy[key] = used + 1
    return True


def _rank_in_group(codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Number rows with equal codes ``[n, levels]`` 0, 1, 2 … in row order."""
    order = np.lexsort(codes.T[::-1])
    ranked = codes[order]
    is_first = np.append(True, (ranked[1:] != ranked[:-1]).any(axis=1))
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(codes)), 0))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - first
    return rank
