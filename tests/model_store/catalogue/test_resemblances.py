"""Resemblances lend what their definition says, however the items came, and refuse what cannot be."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue import resemblances as module
from model_store.catalogue.resemblances import (
    LENDERS,
    MOST_BORROWERS,
    MOST_LENT,
    MOST_LOANS,
    MOST_WORDS,
    NO_WORD,
    Records,
    Resemblances,
    nothing_known,
)
from model_store.errors import CatalogueError
from tests.support.resemblances import random_records

TRAINED = 30


Scores = dict[tuple[int, int], float]  # by request and trained row


def lent_by_definition(first: int, records: Records, scores: Scores) -> dict[int, dict[int, float]]:
    """The scores that each request's new items get: the sum of share times score of what they resemble."""
    found: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for (owner, row), value in scores.items():
        for new, record in enumerate(records):
            for similar, share in zip(record["similar"], record["share"], strict=True):
                if similar == row:
                    found[owner][first + new] += value * float(share)
    return found


def lent(known: Resemblances, scores: Scores) -> dict[int, dict[int, float]]:
    """What is lent, with the scores of each request at random places."""
    requests = 1 + max((owner for owner, _ in scores), default=0)
    width = len(scores) + 3
    rows = np.zeros((requests, width), dtype=np.int64)
    values = np.zeros((requests, width))
    places = np.random.default_rng(3).permutation(width)
    for place, ((owner, row), value) in zip(places.tolist(), scores.items(), strict=False):
        rows[owner, place], values[owner, place] = row, value
    answer = known.lent(rows, values)

    keys = answer.owner * (known.end + 1) + answer.row
    assert (np.diff(keys) > 0).all()
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for one, new, value in zip(*answer, strict=True):
        found[int(one)][int(new)] = float(value)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 4))
def test_new_items_are_lent_the_scores_of_what_they_resemble(seed: int, parts: list[int], requests: int) -> None:
    rng = np.random.default_rng(seed)
    records = random_records(rng, TRAINED, sum(parts))
    known = Resemblances(TRAINED)
    for part in np.split(records, np.cumsum(parts)):
        known = known.with_rows(part)
    scores = {
        (owner, int(row)): float(rng.random()) + 0.01
        for owner in range(requests)
        for row in rng.choice(TRAINED, rng.integers(0, 12), replace=False)
    }

    found = lent(known, scores)
    expected = lent_by_definition(TRAINED, records, scores)
    assert found.keys() == expected.keys()
    for owner, of_owner in expected.items():
        assert found[owner] == pytest.approx(dict(of_owner))
    assert lent(Resemblances.of(TRAINED, records), scores) == found  # to the last bit, however they came


def test_segments_are_few_and_an_older_catalogue_keeps_its_own() -> None:
    rng = np.random.default_rng(0)
    records = random_records(rng, TRAINED, 300)
    versions = [Resemblances(TRAINED)]
    for at in range(300):
        versions.append(versions[-1].with_rows(records[at : at + 1]))
    assert len(versions[-1]._segments) < 12

    scores = {(0, row): 1.0 + row for row in range(TRAINED)}
    for size in (0, 1, 17, 300):
        expected = lent(Resemblances.of(TRAINED, records[:size]), scores)
        assert lent(versions[size], scores) == expected
        assert len(expected[0]) == min(MOST_LENT, len(lent_by_definition(TRAINED, records[:size], scores)[0]))


def test_large_segments_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_SEGMENT", 20)
    records = nothing_known(10)
    records["similar"][:, :8] = np.arange(8)
    records["share"][:, :8] = 1 / 8
    known = Resemblances(TRAINED)
    for record in np.split(records, 10):
        known = known.with_rows(record)
    assert [len(keys) for keys in known._segments] == [16] * 5
    assert lent(known, {(0, 3): 8.0})[0] == dict.fromkeys(range(TRAINED, TRAINED + 10), 1.0)


def test_only_the_largest_are_lent() -> None:
    records = nothing_known(MOST_LENT + 5)
    records["similar"][:, 0] = 1
    records["share"][:, 0] = np.linspace(0.1, 1, len(records))
    records["similar"][0, 0] = 2
    known = Resemblances.of(TRAINED, records)
    found = lent(known, {(0, 1): 1.0, (0, 2): 100.0, (7, 1): 1.0})
    assert len(found[0]) == len(found[7]) == MOST_LENT
    assert TRAINED in found[0]  # little of much
    assert TRAINED + 1 not in found[0]
    assert TRAINED + MOST_LENT + 4 in found[0]


def test_the_items_with_the_highest_scores_lend_and_of_equal_ones_the_first() -> None:
    items = 2 * LENDERS
    records = nothing_known(items)
    records["similar"][:, 0] = np.arange(items)
    records["share"][:, 0] = 1
    known = Resemblances.of(items, records)
    order = np.random.default_rng(0).permutation(items)
    scores = np.stack([1.0 + order, np.full(items, 2.5), np.repeat([3.0, 2.0, 1.0], [10, items - 20, 10])])
    found = known.lent(np.tile(np.arange(items), (3, 1)), scores)
    lenders = [found.row[found.owner == owner] - items for owner in range(3)]
    assert lenders[0].tolist() == np.flatnonzero(order >= items - LENDERS).tolist()
    assert lenders[1].tolist() == lenders[2].tolist() == list(range(LENDERS))


def test_hidden_and_closed_items_get_nothing_and_take_no_place() -> None:
    records = nothing_known(2 * MOST_LENT)
    records["similar"][:, 0] = 4
    records["share"][:, 0] = np.linspace(1, 0.5, len(records))
    known = Resemblances.of(TRAINED, records)
    rows, scores = np.array([[4], [4]]), np.array([[1.0], [2.0]])
    is_hidden = np.arange(len(records)) < MOST_LENT
    found = known.hiding(is_hidden).lent(rows, scores)
    for owner in range(2):
        assert found.row[found.owner == owner].tolist() == list(range(TRAINED + MOST_LENT, known.end))

    closed = np.array([[TRAINED, 4, -1], [TRAINED + 1, TRAINED + 2, 0]])
    found = known.lent(rows, scores, closed)
    expected = ([*range(1, MOST_LENT + 1)], [0, *range(3, MOST_LENT + 2)])
    for owner in range(2):
        assert (found.row[found.owner == owner] - TRAINED).tolist() == expected[owner]


def test_shares_that_round_to_nothing_are_left_out() -> None:
    records = nothing_known(1)
    records["similar"][0, :2] = [3, 4]
    records["share"][0, :2] = [1, 1e-9]
    assert lent(Resemblances.of(TRAINED, records), {(0, 4): 5.0}) == {}


def test_what_too_many_resemble_lends_nothing() -> None:
    for borrowers, expected in ((MOST_BORROWERS, MOST_LENT), (MOST_BORROWERS + 1, 1)):
        records = nothing_known(borrowers)
        records["similar"][:, 0] = 4
        records["share"][:, 0] = 0.5
        records["similar"][0, 1] = 5
        records["share"][0, 1] = 0.5
        found = lent(Resemblances.of(TRAINED, records), {(0, 4): 1.0, (0, 5): 1.0})
        assert len(found[0]) == expected


def test_the_work_of_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LENT", 10**6)
    lenders = MOST_LOANS // MOST_BORROWERS + 3
    records = nothing_known(MOST_BORROWERS * lenders)
    records["similar"][:, 0] = np.arange(len(records)) // MOST_BORROWERS
    records["share"][:, 0] = 1
    known = Resemblances.of(TRAINED, records)
    rows = np.tile(np.arange(LENDERS + 1), (2, 1))  # more than may lend, so that the highest scores come first
    scores = np.zeros(rows.shape)
    scores[:, :lenders] = 1.0 + np.arange(lenders)
    found = known.lent(rows, scores)
    for owner in range(2):
        lending = np.unique((found.row[found.owner == owner] - TRAINED) // MOST_BORROWERS)
        assert lending.tolist() == list(range(3, lenders))


def test_words_are_those_of_the_record() -> None:
    records = random_records(np.random.default_rng(1), TRAINED, 6)
    known = Resemblances.of(TRAINED, records)
    rows = np.array([[TRAINED, 0, TRAINED + 5], [TRAINED - 1, TRAINED + 6, TRAINED + 2]])
    words = known.words(rows)
    assert words.word.shape == words.weight.shape == (2, 3, MOST_WORDS)
    for place in np.ndindex(2, 3):
        new = rows[place] - TRAINED
        if 0 <= new < 6:
            np.testing.assert_array_equal(words.word[place], records["word"][new])
            np.testing.assert_array_equal(words.weight[place], records["word_weight"][new])
        else:
            assert (words.word[place] == NO_WORD).all()
            assert not words.weight[place].any()
    has_words = [(records["word"][at] != NO_WORD).any() for at in (0, 5, 2)]
    assert known.has_words(rows).tolist() == [[has_words[0], False, has_words[1]], [False, False, has_words[2]]]
    assert not Resemblances().has_words(rows).any()


def test_arrays_lead_back_and_some_rows_keep_what_they_resemble() -> None:
    records = random_records(np.random.default_rng(2), TRAINED, 5)
    known = Resemblances.of(TRAINED, records)
    again = Resemblances.from_arrays(known.arrays())
    assert again.first == TRAINED
    np.testing.assert_array_equal(again.records, records)

    kept = np.array([*range(5, TRAINED), TRAINED + 1, TRAINED + 4])
    part = known.for_rows(kept)
    assert (part.first, part.end) == (TRAINED - 5, len(kept))
    scores = {(0, row): 1.0 + row for row in range(5, TRAINED)}
    whole = lent(known, scores)[0]
    found = lent(part, {(0, row - 5): value for (_, row), value in scores.items()})[0]
    assert known.for_rows(np.array([TRAINED, TRAINED + 2])).end == 2  # of which nothing is known any more
    assert found == {int(np.searchsorted(kept, row)): whole[row] for row in kept[-2:].tolist() if row in whole}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("similar", TRAINED, "rows of trained items, below 30"),
        ("similar", -2, "rows of trained items"),
        ("share", -1, "share must be at least 0"),
        ("share", np.nan, "share must be at least 0"),
        ("word_weight", np.inf, "word_weight must be at least 0"),
        ("word", NO_WORD, "0 where there is no word"),
    ],
)
def test_impossible_records_are_refused(name: str, value: float, message: str) -> None:
    records = nothing_known(2)
    records["similar"][:, 0] = 3
    records["share"][:, 0] = 1
    records["word"][:, 0] = 3
    records["word_weight"][:, 0] = 1
    Resemblances.of(TRAINED, records)
    records[name][1, 0] = value
    with pytest.raises(CatalogueError, match=message):
        Resemblances.of(TRAINED, records)


def test_a_share_without_an_item_is_refused() -> None:
    records = nothing_known(1)
    records["share"][0, 3] = 0.5
    with pytest.raises(CatalogueError, match="0 where there is no item"):
        Resemblances.of(TRAINED, records)


def test_arrays_of_another_kind_are_refused() -> None:
    arrays = Resemblances.of(TRAINED, nothing_known(3)).arrays()
    with pytest.raises(CatalogueError, match="word must be"):
        Resemblances.from_arrays(arrays | {"word": arrays["word"].astype(np.int32)})
    for first in (np.array([4.7]), np.array([3, 4]), np.array(3)):
        with pytest.raises(CatalogueError, match="first_new must be"):
            Resemblances.from_arrays(arrays | {"first_new": first})
    with pytest.raises(CatalogueError, match="similar a table"):
        Resemblances.from_arrays(arrays | {"similar": np.array(1, dtype=np.int32)})
    with pytest.raises(CatalogueError, match="lacks the array 'share'"):
        Resemblances.from_arrays({name: array for name, array in arrays.items() if name != "share"})
