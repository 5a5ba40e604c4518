"""Rules of requests as the search reads them: one bit for each node of the trie."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model_store.network.dense_candidates import DEAD


def bits_of_bytes(device: torch.device) -> Tensor:
    """Return the table ``[256, 8]`` of the bits of each byte, the lowest first."""
    return ((torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1).bool()


class RuleBits(NamedTuple):
    """Which nodes the rules of a batch leave open.

    Shapes: B requests, P places, w slots of a window, R rules.
    """

    table: Tensor  # of :func:`bits_of_bytes`
    bits: Tensor  # [R, bytes], open nodes of each distinct rule, one bit a node
    rule_of: Tensor  # [B], rule of each request

    def leaf_mask(self, leaves: int, first_leaf: int) -> Tensor:
        """Return ``[B, leaves]``: 0 where a request's rule leaves a leaf open, -inf elsewhere."""
        start = first_leaf // 8
        shift = first_leaf % 8
        bits = self._unpack(self.bits[:, start : start + _bytes_around(leaves)])
        return torch.where(bits[:, shift : shift + leaves], 0.0, DEAD)[self.rule_of]

    def open_nodes(self, first: Tensor, window: Tensor) -> Tensor:
        """Return ``[B, P, w]``: whether each request's rule leaves the w nodes from ``first [B, P]`` on open."""
        span = torch.arange(_bytes_around(window.shape[0]), device=window.device)
        byte = torch.clamp((first // 8)[:, :, None] + span, max=self.bits.shape[1] - 1)
        bits = self._unpack(self.bits.flatten().take(self.rule_of[:, None, None] * self.bits.shape[1] + byte))
        return bits.gather(2, (first % 8)[:, :, None] + window)

    def _unpack(self, byte: Tensor) -> Tensor:
        """Return the bits of bytes ``[…, n]``, the lowest first: ``[…, 8 * n]``."""
        return functional.embedding(byte.long(), self.table).flatten(-2)


def _bytes_around(bits: int) -> int:
    """Return how many bytes hold so many neighbouring bits, wherever in the first of them they begin."""
    return (bits + 14) // 8
