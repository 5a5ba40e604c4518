"""The ranker: features against their definition written out, what a correction depends on, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_store.catalogue.resemblances import NO_WORD, Resemblances
from model_store.errors import BundleRefused
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, SearchOutputs, search_inputs
from model_store.search.item_words import ItemWords
from model_store.search.neighbours import no_additions
from model_store.search.ranker import (
    AGE_DECAY,
    AGES,
    FEATURES,
    LARGEST,
    LEAST_LOG_PROB,
    CandidateFeatures,
    Ranker,
    corrected,
)
from model_store.search.ranker import (
    POPULARITY as POPULARITY_COLUMN,
)
from model_store.semantic_ids.trie import Trie
from tests.support.random_worlds import random_item_words, random_ranker
from tests.support.resemblances import random_records

ITEMS, TRAINED, LEARNED, CONTENT, LEVELS, CODES = 40, 35, 6, 5, 3, 8
HISTORIES = [[3], [7, 7, 38], list(range(14)), [20, 21, 22, 23]]
CANDIDATES = 9


def random_trie(seed: int = 0) -> Trie:
    flat = np.random.default_rng(seed).choice(CODES**LEVELS, ITEMS, replace=False)
    codes = np.stack([flat // CODES**level % CODES for level in range(LEVELS)], axis=1)
    return Trie.build(codes.astype(np.int16), CODES)


TRIE = random_trie()
VECTORS = np.random.default_rng(1).normal(size=(ITEMS, LEARNED + CONTENT)).astype(np.float32)
POPULARITY = np.log1p(np.random.default_rng(2).integers(0, 50, TRAINED)).astype(np.float32)
WORDS = random_item_words(np.random.default_rng(5), TRAINED)
READER = CandidateFeatures(POPULARITY, CONTENT, WORDS)


def searched(histories: list[list[int]] = HISTORIES, seed: int = 3) -> tuple[SearchInputs, SearchOutputs]:
    """Made-up candidates of each history, one place of each empty, and neighbours of which some are candidates."""
    random = np.random.default_rng(seed)
    requests = len(histories)
    rows = np.stack([random.choice(ITEMS, CANDIDATES, replace=False) for _ in range(requests)])
    added = no_additions(requests, 32)
    for request in range(requests):
        near = np.sort(random.choice(ITEMS, 12, replace=False))
        added.leaves[request, :12] = TRIE.item_leaf[near]
        added.values[request, :12] = random.uniform(0.1, 1, 12)

    leaves = TRIE.item_leaf[rows].astype(np.int64)
    leaves[:, -1] = -1
    is_there = leaves >= 0
    shape = (requests, CANDIDATES)
    outputs = SearchOutputs(
        leaves=leaves,
        log_prob=np.where(is_there, -random.uniform(1, 50, shape), -np.inf).astype(np.float32),
        dense=np.where(is_there, random.normal(size=shape), 0).astype(np.float32),
        code_log_prob=np.zeros((*shape, LEVELS), dtype=np.float32),
    )
    encoded = encode_histories([np.array(each) for each in histories], TRIE.item_leaf, 50)
    return search_inputs(encoded, TRIE, 5, candidates=4, additions=added), outputs


def written_out(inputs: SearchInputs, outputs: SearchOutputs, request: int, place: int) -> dict[str, float]:
    """The definition of the features, for one candidate."""
    history = HISTORIES[request]
    newest = history[::-1][:AGES]
    item = int(TRIE.leaf_item[outputs.leaves[request, place]])
    learned = [float(VECTORS[item, :LEARNED] @ VECTORS[had, :LEARNED]) for had in newest]
    content = [float(VECTORS[item, LEARNED:-1] @ VECTORS[had, LEARNED:-1]) for had in newest]
    words = WORDS.similarities(np.array([[item]]), np.array([newest]))[0, 0].tolist()
    weights = [AGE_DECAY**age for age in range(len(newest))]
    near = dict(zip(inputs.neighbours[request].tolist(), inputs.neighbour_scores[request].tolist(), strict=True))
    return {
        "log_prob": max(float(outputs.log_prob[request, place]), LEAST_LOG_PROB),
        "dense": float(outputs.dense[request, place]),
        "neighbours": near.get(int(outputs.leaves[request, place]), 0.0),
        "content_mean": sum(w * c for w, c in zip(weights, content, strict=True)) / sum(weights),
        "content_newest": content[0],
        "content_largest": max(content),
        "words_mean": sum(w * c for w, c in zip(weights, words, strict=True)) / sum(weights),
        "words_newest": words[0],
        "words_largest": max(words),
        "learned_newest": learned[0],
        "learned_largest": max(learned),
        "log_popularity": float(POPULARITY[item]) if item < TRAINED else math.nan,
        "log_popularity_newest": float(POPULARITY[newest[0]]) if newest[0] < TRAINED else math.nan,
        "log_length": math.log(len(history)),
        "log_occurrences": math.log1p(history.count(item)),
    }


def test_new_items_are_read_like_others_and_count_as_popular_as_the_median() -> None:
    inputs, outputs = searched()
    new = Resemblances.of(TRAINED, random_records(np.random.default_rng(8), TRAINED, ITEMS - TRAINED))
    without, found = (READER.of(inputs, outputs, TRIE, VECTORS, known) for known in (None, new))
    rows = TRIE.leaf_item[np.maximum(outputs.leaves, 0)]
    has_words = (new.records["word"] != NO_WORD).any(axis=1)
    is_known = (rows >= TRAINED) & has_words[np.maximum(rows - TRAINED, 0)]
    is_unknown = (rows >= TRAINED) & ~is_known
    assert is_known.any()
    assert is_unknown.any()

    popularity = found[..., POPULARITY_COLUMN]
    assert (popularity[is_known] == np.float32(np.median(POPULARITY))).all()
    assert np.isnan(popularity[is_unknown]).all()
    words = [FEATURES.index(name) for name in ("words_mean", "words_newest", "words_largest")]
    assert (found[..., words][is_known] > without[..., words][is_known]).any()

    silent = CandidateFeatures(POPULARITY, CONTENT, ItemWords.nothing(TRAINED))
    for known in (None, new):  # what the ranker was never taught is not read
        unread = silent.of(inputs, outputs, TRIE, VECTORS, known)
        assert not unread[..., words].any()
        assert np.isnan(unread[..., POPULARITY_COLUMN][rows >= TRAINED]).all()

    ranker = random_ranker(np.random.default_rng(9), READER)
    corrections = ranker.corrections(found)
    assert (corrections[is_unknown] == np.float32(ranker.untrained)).all()
    assert (corrections[is_known] != np.float32(ranker.untrained)).all()


def test_features_are_what_their_definition_says() -> None:
    inputs, outputs = searched()
    found = READER.of(inputs, outputs, TRIE, VECTORS)
    assert found.shape == (len(HISTORIES), CANDIDATES, len(FEATURES))
    unknown = 0
    for request in range(len(HISTORIES)):
        for place in range(CANDIDATES - 1):
            expected = written_out(inputs, outputs, request, place)
            named = dict(zip(FEATURES, found[request, place].tolist(), strict=True))
            assert named == pytest.approx(expected, rel=1e-5, abs=1e-5, nan_ok=True)
            unknown += sum(map(math.isnan, named.values()))
    assert unknown > CANDIDATES  # the newest item of the second history came after training
    assert (found[..., FEATURES.index("neighbours")] > 0).any()
    assert (found[..., FEATURES.index("log_prob")] == LEAST_LOG_PROB).any()


def test_without_content_words_and_neighbours_their_features_are_0() -> None:
    inputs, outputs = searched()
    nothing = no_additions(len(HISTORIES))
    inputs = inputs._replace(neighbours=nothing.leaves, neighbour_scores=nothing.values)
    found = CandidateFeatures(POPULARITY, 0, ItemWords.nothing(TRAINED)).of(inputs, outputs, TRIE, VECTORS)
    for name in FEATURES:
        if name.startswith(("neighbours", "content", "words")):
            assert not found[..., FEATURES.index(name)].any()
    with_all = READER.of(inputs, outputs, TRIE, VECTORS)[..., FEATURES.index("learned_largest")]
    assert (found[..., FEATURES.index("learned_largest")] != with_all).any()  # then all of the vector is learned


def test_a_correction_is_the_networks_answer_by_hand() -> None:
    ranker = random_ranker(np.random.default_rng(4), READER)
    inputs, outputs = searched()
    features = READER.of(inputs, outputs, TRIE, VECTORS)
    found = ranker.corrections(features)
    for request, place in np.ndindex(*found.shape):
        x = np.clip((features[request, place].astype(np.float64) - ranker.mean) / ranker.deviation, -LARGEST, LARGEST)
        if np.isnan(x[FEATURES.index("log_popularity")]):
            assert found[request, place] == np.float32(ranker.untrained)
            continue
        x = np.where(np.isnan(x), 0, x)
        for weight, bias in zip(ranker.weights[:-1], ranker.biases[:-1], strict=True):
            x = np.maximum(weight @ x + bias, 0)
        assert found[request, place] == pytest.approx(float((ranker.weights[-1] @ x + ranker.biases[-1])[0]), rel=1e-4)


def test_only_dense_scores_of_candidates_change() -> None:
    ranker = random_ranker(np.random.default_rng(4), READER)
    inputs, outputs = searched()
    found = ranker.correct(inputs, outputs, TRIE, VECTORS)
    expected = outputs.dense + ranker.corrections(READER.of(inputs, outputs, TRIE, VECTORS))
    np.testing.assert_array_equal(found.dense[:, :-1], expected[:, :-1])
    assert not found.dense[:, -1].any()  # the empty place
    for name in ("leaves", "log_prob", "code_log_prob"):
        np.testing.assert_array_equal(getattr(found, name), getattr(outputs, name))
    assert corrected(None, inputs, outputs, TRIE, VECTORS) is outputs
    assert corrected(ranker, inputs, outputs, TRIE, None) is outputs


def test_a_score_depends_on_neither_other_candidates_nor_other_requests() -> None:
    """Explanations and boosts search again, among fewer items, and must find the same scores."""
    ranker = random_ranker(np.random.default_rng(4), READER)
    inputs, outputs = searched()
    whole = ranker.correct(inputs, outputs, TRIE, VECTORS).dense

    kept = slice(2, 5)
    fewer = SearchOutputs._make(each[:, kept] for each in outputs)
    np.testing.assert_allclose(ranker.correct(inputs, fewer, TRIE, VECTORS).dense, whole[:, kept], rtol=1e-5, atol=1e-5)

    longest = inputs.history.shape[1]
    for request, history in enumerate(HISTORIES):
        encoded = encode_histories([np.array(history)], TRIE.item_leaf, 50, pad_to=longest + 9)
        alone = inputs._replace(
            history=encoded.leaves,
            lengths=encoded.lengths,
            neighbours=inputs.neighbours[request : request + 1],
            neighbour_scores=inputs.neighbour_scores[request : request + 1],
        )
        row = SearchOutputs._make(each[request : request + 1] for each in outputs)
        found = ranker.correct(alone, row, TRIE, VECTORS).dense
        np.testing.assert_allclose(found, whole[request : request + 1], rtol=1e-5, atol=1e-5)


def test_arrays_come_back_and_some_rows_are_numbered_anew() -> None:
    ranker = random_ranker(np.random.default_rng(4), READER)
    again = Ranker.from_arrays(ranker.arrays())
    assert again.items == TRAINED
    inputs, outputs = searched()
    features = READER.of(inputs, outputs, TRIE, VECTORS)
    np.testing.assert_array_equal(again.corrections(features), ranker.corrections(features))

    rows = np.array([0, 4, 34, 35, 39])
    some = ranker.for_rows(rows).features
    np.testing.assert_array_equal(some.log_popularity, POPULARITY[[0, 4, 34]])
    np.testing.assert_array_equal(some.words.word, WORDS.word[[0, 4, 34]])


def spoilt(name: str, value: Any) -> dict[str, Any]:
    return {**random_ranker(np.random.default_rng(4), READER).arrays(), name: np.asarray(value)}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({}, "log_popularity"),
        (spoilt("log_popularity", np.zeros((2, 2), np.float32)), "a number for each of the 35 items"),
        (spoilt("log_popularity", np.full(TRAINED, np.nan, np.float32)), "must be finite"),
        (spoilt("content_dim", [-1]), "content_dim must be at least 0"),
        (spoilt("content_dim", [1, 2]), "size 1"),
        (spoilt("word", WORDS.word[:, :3]), "must hold 8 numbers for every item"),
        (spoilt("word_weight", -WORDS.weight), "word_weight must be at least 0"),
        (spoilt("mean", np.zeros(3, np.float32)), f"must hold {len(FEATURES)} numbers"),
        (spoilt("deviation", np.zeros(len(FEATURES), np.float32)), "deviations be above 0"),
        (spoilt("untrained", [np.inf]), "must be finite"),
        (spoilt("weight_0", np.zeros((7, 3), np.float32)), f"a layer of {len(FEATURES)} inputs has weights"),
        (spoilt("bias_1", np.zeros(8, np.float32)), "a layer of 7 inputs"),
        (spoilt("weight_2", np.zeros((2, 7), np.float32)), "a layer of 7 inputs"),
        ({**spoilt("weight_2", np.zeros((2, 7), np.float32)), "bias_2": np.zeros(2, np.float32)}, "one output, not 2"),
    ],
)
def test_arrays_that_are_no_ranker_are_refused(arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(BundleRefused, match=problem):
        Ranker.from_arrays(arrays)


def test_a_feature_far_from_all_that_was_fitted_is_cut_off() -> None:
    ranker = replace(random_ranker(np.random.default_rng(4), READER), mean=np.zeros(len(FEATURES), np.float32))
    far = np.full(len(FEATURES), 1e9, dtype=np.float32)
    np.testing.assert_array_equal(ranker.corrections(far), ranker.corrections(LARGEST * ranker.deviation))
