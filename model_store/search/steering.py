"""Steering: nats that a request adds to entering prefixes of codes, inside the search.

    steered(item) = log_prob(item) + sum over steered prefixes of the item of their nats

Beams are chosen by the steered log-probability of what they have decoded so far, so a region of the code tree rises or
falls as a whole, items that nobody has seen included. What the search reports as ``log_prob`` stays the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.semantic_ids.trie import Trie

STEERING_SIZES = (0, 8, 64)
"""Numbers of steered nodes that a batch is padded to, so that few distinct shapes reach the engine."""

Steer = Sequence[tuple[tuple[int, ...], float]]
"""Prefixes of codes, each with its nats."""


class SteeringBatch(NamedTuple):
    """The steering of a batch of B requests."""

    nodes: npt.NDArray[np.int64]  # [B, S], node ids, padded with -1
    nats: npt.NDArray[np.float32]  # [B, S], 0 for padding


def steering_batch(trie: Trie, steers: Sequence[Steer]) -> SteeringBatch:
    """Return the steering of a batch; prefixes that the trie lacks are left out.

    Raises:
        ValueError: A request steers more prefixes than the largest size.
    """
    if not any(steers):
        return no_steering(len(steers))

    found = [_known_nodes(trie, steer) for steer in steers]
    most = max(len(nodes) for nodes in found)
    if most > STEERING_SIZES[-1]:
        raise ValueError(f"a request steers {most} prefixes, the limit is {STEERING_SIZES[-1]}")

    batch = no_steering(len(steers), next(size for size in STEERING_SIZES if size >= most))
    for row, nodes in enumerate(found):
        batch.nodes[row, : len(nodes)] = list(nodes)
        batch.nats[row, : len(nodes)] = list(nodes.values())
    return batch


def no_steering(requests: int, size: int = 0) -> SteeringBatch:
    """Return the steering of requests that steer nothing: padding alone, S of it."""
    return SteeringBatch(np.full((requests, size), -1, dtype=np.int64), np.zeros((requests, size), dtype=np.float32))


def steering_of(codes: npt.NDArray[np.integer], steer: Steer) -> npt.NDArray[np.float32]:
    """Return the nats ``[n]`` that steering adds to items with these semantic IDs, ``[n, L]``."""
    added = np.zeros(len(codes), dtype=np.float32)
    for prefix, nats in steer:
        if len(prefix) <= codes.shape[1]:
            added[(codes[:, : len(prefix)] == prefix).all(axis=1)] += np.float32(nats)
    return added


def _known_nodes(trie: Trie, steer: Steer) -> dict[int, float]:
    """Return nats by the id of each node that the trie has."""
    nodes = [(trie.node_id(prefix), nats) for prefix, nats in steer]
    return {node: nats for node, nats in nodes if node is not None}
