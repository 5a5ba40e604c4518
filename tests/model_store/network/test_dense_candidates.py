"""Leaves that are listed for their dense scores, and those among them that must not be answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model_store.network.dense_candidates import DEAD, ListedLeaves


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches which tensor has the most numbers."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple) else (found,):
            if isinstance(each, Tensor):
                self.most = max(self.most, each.numel())
        return found


def listed(rng: np.random.Generator, batch: int, leaves: int, listed_leaves: int) -> ListedLeaves:
    """Return distinct leaves, some of them listed again, and padding."""
    leaf = torch.from_numpy(np.stack([rng.permutation(leaves)[:listed_leaves] for _ in range(batch)]))
    dense = torch.rand(batch, listed_leaves)
    again = torch.full((batch, 2), DEAD)
    padding = torch.full((batch, 1), -1)
    return ListedLeaves(torch.cat([leaf, leaf[:, :1], padding], dim=1), torch.cat([dense, again], dim=1))


@pytest.mark.parametrize("pool", [0, 12, 100])
@pytest.mark.parametrize("excluded_nodes", [0, 1, 40])
def test_what_is_closed_excluded_or_in_the_pool_is_not_answered(pool: int, excluded_nodes: int) -> None:
    rng = np.random.default_rng(pool + excluded_nodes)
    found = listed(rng, 5, 30, 20)
    # Numbers of inner nodes, and of padding, are below 0 here; some come twice.
    excluded = torch.from_numpy(rng.integers(-8, 30, (5, excluded_nodes)))
    is_open = torch.from_numpy(rng.random(found.leaf.shape) < 0.7)
    outside = found.outside(pool, is_open, excluded)

    for row in range(5):
        banned = set(excluded[row].tolist())
        for place, leaf in enumerate(found.leaf[row].tolist()):
            is_left = bool(is_open[row, place]) and leaf >= pool and leaf not in banned
            expected = found.dense[row, place] if is_left else DEAD
            assert outside.dense[row, place] == expected
    assert torch.equal(outside.leaf, found.leaf)


def test_a_request_that_excludes_thousands_of_items_costs_no_memory_for_each_pair() -> None:
    found = listed(np.random.default_rng(0), 2, 5000, 600)
    excluded = torch.arange(4096).expand(2, -1)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        outside = found.outside(0, torch.ones_like(found.leaf, dtype=torch.bool), excluded)
    assert largest.most <= 2 * (4096 + 602)
    assert (outside.dense > DEAD).sum() == (found.leaf[:, :600] >= 4096).sum() > 0
