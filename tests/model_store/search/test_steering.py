"""Steering of a batch as arrays, and what it adds to items."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.search.steering import STEERING_SIZES, no_steering, steering_batch, steering_of
from tests.support.bundles import small_catalogue

CATALOGUE = small_catalogue(items=60)
TRIE = CATALOGUE.trie


def test_node_ids_are_those_of_masks() -> None:
    """The mask that leaves one item open has exactly the nodes of its prefixes open."""
    for row in range(len(CATALOGUE)):
        is_open = np.arange(len(CATALOGUE)) == row
        bits = np.unpackbits(TRIE.mask(is_open).bits, count=TRIE.nodes, bitorder="little")
        codes = CATALOGUE.codes[row].tolist()
        assert np.flatnonzero(bits).tolist() == [TRIE.node_id(codes[:depth]) for depth in (1, 2, 3)]
    assert TRIE.node_id([99]) is None
    assert TRIE.node_id([*CATALOGUE.codes[0].tolist(), 0]) is None


def test_a_batch_that_steers_nothing_has_no_places() -> None:
    batch = steering_batch(TRIE, [(), ()])
    assert batch.nodes.shape == batch.nats.shape == (2, 0)


def test_prefixes_become_nodes_and_unknown_ones_are_left_out() -> None:
    first, second = CATALOGUE.codes[0, :2].tolist()
    batch = steering_batch(TRIE, [(((first,), 1.5), ((99,), 3.0), ((first, second), -2.0)), ()])
    assert batch.nodes.shape == (2, STEERING_SIZES[1])
    assert batch.nodes[0].tolist() == [TRIE.node_id([first]), TRIE.node_id([first, second]), *[-1] * 6]
    assert batch.nats[0].tolist() == [1.5, -2.0, *[0.0] * 6]
    assert (batch.nodes[1] == -1).all()
    assert not batch.nats[1].any()


def test_nats_of_all_prefixes_of_an_item_add_up() -> None:
    codes = CATALOGUE.codes[7].tolist()
    steer = [((codes[0],), 1.0), (tuple(codes[:2]), 2.0), (tuple(codes), 4.0), ((*codes, 1), 8.0), ((99,), 16.0)]
    added = steering_of(CATALOGUE.codes, steer)
    assert added[7] == 7.0
    for row, each in enumerate(CATALOGUE.codes.tolist()):
        same = [each[:depth] == codes[:depth] for depth in (1, 2, 3)]
        assert added[row] == same[0] + 2 * same[1] + 4 * same[2]


def test_too_many_prefixes_are_refused() -> None:
    nodes = [tuple(CATALOGUE.codes[row, :2].tolist()) for row in range(len(CATALOGUE))]
    singles = [tuple(codes) for codes in CATALOGUE.codes.tolist()]
    steer = [(prefix, 1.0) for prefix in {*nodes, *singles}]
    with pytest.raises(ValueError, match="the limit is 64"):
        steering_batch(TRIE, [steer])
    assert no_steering(3, 8).nodes.shape == (3, 8)
