"""Assembling search inputs: few distinct shapes, defaults that restrict nothing, limits that are errors."""

import numpy as np

from model_store.search.history_encoding import encode_histories
from model_store.search.interface import (
    catalogue_inputs,
    graph_input_names,
    pool_vectors,
    search_inputs,
)
from model_store.semantic_ids.trie import Trie

CODES = np.array([[0, 0], [0, 1], [1, 2], [2, 0], [2, 2]], dtype=np.int16)
TRIE = Trie.build(CODES, 3)
VECTORS = np.arange(10, dtype=np.float32).reshape(5, 2)
HISTORY = encode_histories([np.array([0, 2]), np.array([4])], TRIE.item_leaf, 5)


def test_what_is_left_out_restricts_nothing() -> None:
    inputs = search_inputs(HISTORY, TRIE, 4)
    assert inputs.history is HISTORY.leaves
    assert inputs.lengths is HISTORY.lengths
    bits = np.unpackbits(inputs.rule_bits, axis=1, bitorder="little")
    assert inputs.rule_bits.shape[0] == 1
    assert bits[0, : TRIE.nodes].all()
    assert inputs.rule_of.tolist() == [0, 0]
    assert (inputs.excluded == -1).all()
    assert inputs.max_per_prefix.tolist() == [4, 4]
    assert inputs.beam.shape == (4,)
    assert inputs.candidates.shape == (0,)
    assert inputs.neighbours.shape == inputs.neighbour_scores.shape == (2, 0)


def test_rules_and_limits_reach_their_requests() -> None:
    rules = [TRIE.everything, TRIE.mask(np.array([True, False, False, True, False]))]
    inputs = search_inputs(HISTORY, TRIE, 4, rules, [1, 0], max_per_prefix=[2, 1])
    np.testing.assert_array_equal(inputs.rule_bits, np.stack([rule.bits for rule in rules]))
    assert inputs.rule_of.tolist() == [1, 0]
    assert inputs.max_per_prefix.tolist() == [2, 1]


def test_excluding_all_items_below_a_node_closes_the_node() -> None:
    # Nodes 0-2 are the first codes, 3-7 the leaves in order of their codes: items 0, 1, 2, 3, 4.
    inputs = search_inputs(HISTORY, TRIE, 4, excluded_items=[np.array([0, 1]), np.array([4])])
    closed = [set(row[row >= 0].tolist()) for row in inputs.excluded]
    assert closed == [{0, 3, 4}, {7}]


def test_exclusions_count_the_rule_of_their_own_request() -> None:
    """Item 3 is closed by the rule already: excluding item 4 then leaves first code 2 without an open item."""
    without_item_3 = TRIE.mask(np.array([True, True, True, False, True]))
    excluded = [np.array([4]), np.array([4])]
    inputs = search_inputs(HISTORY, TRIE, 4, [TRIE.everything, without_item_3], [0, 1], excluded)
    closed = [set(row[row >= 0].tolist()) for row in inputs.excluded]
    assert closed == [{7}, {2, 7}]


def test_names_of_the_graphs_inputs_follow_the_order_of_the_arrays() -> None:
    names = graph_input_names(2)
    inputs = search_inputs(HISTORY, TRIE, 4, candidates=3)
    arrays = [*inputs, *catalogue_inputs(TRIE, VECTORS, 2)]
    assert len(names) == len(arrays) + 1 == len(set(names))
    assert names[:12] == [
        *("history", "lengths", "rule_bits", "rule_of", "excluded", "max_per_prefix"),
        *("neighbours", "neighbour_scores", "steer_nodes", "steer_nats", "beam", "candidates"),
    ]
    assert names[12:] == [
        *("child_start_0", "child_start_1", "child_code_0", "child_code_1"),
        *("window_0", "window_1", "parent_2", "leaf_row", "vectors", "pool"),
    ]
    assert inputs.candidates.shape == (3,)


def test_vectors_are_found_by_leaf() -> None:
    shuffled = Trie.build(CODES[::-1], 3)
    *_, leaf_row, by_row = catalogue_inputs(shuffled, VECTORS, 2)
    assert by_row is VECTORS  # a million of them are not copied for every change of the catalogue
    np.testing.assert_array_equal(by_row[leaf_row], VECTORS[::-1])
    np.testing.assert_array_equal(pool_vectors(shuffled, VECTORS, 2, has_rows=True), VECTORS[::-1])
    assert pool_vectors(shuffled, VECTORS, 2, has_rows=False).shape == (0, 2)
    *_, without = catalogue_inputs(shuffled, None, 2)
    assert without.shape == (1, 2)  # one row of zeros stands for every item
    assert not without.any()
