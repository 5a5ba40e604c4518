"""From quantised latents to one semantic ID per item: what happens when items share all codes.

``reassign`` gives every item the nearest free code tuple. ``token`` appends a code that tells collided items apart, at
most K of them per tuple. Both are one procedure with a capacity per tuple: 1, or K. No two items are ever merged.
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

DISTANCES_AT_ONCE = 1 << 24
"""Distances held in memory at a time, 64 MiB."""


@dataclass(frozen=True)
class Assignment:
    """Semantic IDs of all items and how far they had to move.

    Attributes:
        codes: ``[items, L]``, unique rows.
        collision_rate: Share of items whose nearest tuple is also another item's.
        largest_group: Items that share the most crowded nearest tuple.
        moved: Items that do not have their nearest tuple.
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

    Items closest to their tuple choose first; ties go by row, so the result depends on nothing else.

    An item that has codes already moves only if that brings it clearly closer. Most moves after a little training are
    between tuples that fit about equally well: they gain nothing, and the recommender has to learn them anew.

    Args:
        latents: r, ``[items, d_c]``.
        codebooks: ``[levels, K, d_c]``.
        policy: See the module.
        incumbent: Codes that items have now, ``[items, L]``.
        stickiness: An item keeps them while their squared distance is at most this share above the nearest tuple's; 0:
            what it has now plays no part.

    Raises:
        CatalogueError: More items than code tuples can hold.
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
    natural = nearest
    if incumbent is not None and stickiness:
        own = torch.from_numpy(incumbent[:, :levels].astype(np.int64))
        distance = _distance(latents, codebooks, own)
        stays = distance <= (1 + stickiness) * error
        natural = np.where(stays.numpy()[:, None], own.numpy(), nearest)
        error = torch.where(stays, distance, error)
    _, group, count = np.unique(nearest, axis=0, return_inverse=True, return_counts=True)
    placed = _place(latents, codebooks, error, natural, capacity)
    codes = placed if policy == "reassign" else np.column_stack([placed, _rank_in_group(placed)])
    return Assignment(
        codes.astype(np.int16),
        float((count[group.ravel()] > 1).mean()),
        int(count.max()),
        int((placed != nearest).any(axis=1).sum()),
    )


def nearest_tuples(latents: Tensor, codebooks: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` best code tuples of each latent by residual beam search, nearest first.

    With width 1 this is greedy residual quantisation, the tokenizer's own choice.

    Returns:
        Codes ``[items, width, levels]`` and squared distances between latent and sum of codes ``[items, width]``.
        Fewer than ``width`` where fewer tuples exist.
    """
    residual, codes = latents[:, None], torch.empty(len(latents), 1, 0, dtype=torch.int64)
    error = residual.new_zeros(len(latents), 1)
    for codebook in codebooks:
        items, beams, width_c = residual.shape
        distance = squared_distances(residual.reshape(-1, width_c), codebook).view(items, beams * len(codebook))
        error, pick = distance.topk(min(width, distance.shape[1]), dim=1, largest=False)
        parent, code = pick // len(codebook), pick % len(codebook)
        codes = torch.cat([codes.gather(1, parent[:, :, None].expand(-1, -1, codes.shape[2])), code[:, :, None]], 2)
        residual = residual.gather(1, parent[:, :, None].expand(-1, -1, width_c)) - codebook[code]
    return codes, error.clamp(min=0)


def _distance(latents: Tensor, codebooks: Tensor, codes: Tensor) -> Tensor:
    """Squared distance ``[items]`` between each latent and the sum of its codes ``[items, levels]``."""
    quantised = sum((book[codes[:, level]] for level, book in enumerate(codebooks)), torch.zeros_like(latents))
    return (latents - quantised).square().sum(dim=1)


def _place(latents: Tensor, codebooks: Tensor, error: Tensor, natural: Codes, capacity: int) -> Codes:
    """Greedy placement: whoever finds a tuple full tries its next-nearest, with a beam that widens as needed."""
    order = np.argsort(error.numpy(), kind="stable")
    placed = natural.copy()
    room: dict[bytes, int] = {}
    waiting = [row for row in order.tolist() if not _take(room, natural[row], capacity)]
    width = 32
    while waiting:
        homeless = []
        for row, options in _options(latents, codebooks, waiting, width):
            found = next((option for option in options if _take(room, option, capacity)), None)
            if found is None:
                homeless.append(row)
            else:
                placed[row] = found
        waiting, width = homeless, width * 4
    return placed


def _options(
    latents: Tensor, codebooks: Tensor, rows: list[int], width: int
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each row with its ``width`` nearest tuples, found a few rows at a time so that memory stays bounded."""
    step = _items_at_once(codebooks.shape[1], width)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield from zip(part, nearest_tuples(latents[part], codebooks, width)[0].numpy(), strict=True)


def _items_at_once(codebook_size: int, width: int) -> int:
    return max(1, DISTANCES_AT_ONCE // (codebook_size * width))


def _take(room: dict[bytes, int], codes: Codes, capacity: int) -> bool:
    key = codes.tobytes()
    used = room.get(key, 0)
    if used >= capacity:
        return False
    room[key] = used + 1
    return True


def _rank_in_group(codes: Codes) -> Codes:
    """0, 1, 2 … for rows with equal codes, in row order."""
    order = np.lexsort(codes.T[::-1])
    ranked = codes[order]
    opens = np.append(True, (ranked[1:] != ranked[:-1]).any(axis=1))
    first = np.maximum.accumulate(np.where(opens, np.arange(len(codes)), 0))
    rank = np.empty(len(codes), dtype=np.int16)
    rank[order] = np.arange(len(codes)) - first
    return rank
