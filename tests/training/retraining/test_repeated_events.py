"""Which events the base data hold already, with and without times."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.set_aside import Interactions
from training.retraining.repeated_events import find_repeats

Row = tuple[int, int, int]  # user, item, time


def log(rows: list[Row]) -> Interactions:
    user, item, time = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Interactions(user.astype(np.int32), item.astype(np.int32), time, np.full(len(time), -1, dtype=np.int8))


def repeats(base: list[Row], events: list[Row], keep_repeats: bool = False) -> list[int]:
    """Return the numbers of the events that repeat something."""
    return np.flatnonzero(find_repeats(log(base), log(events), keep_repeats)).tolist()


BASE = [(0, 5, 10), (0, 6, 11), (1, 5, 10)]


def test_user_item_and_time_tell_a_repeat() -> None:
    assert repeats(BASE, [(0, 5, 10), (0, 6, 11), (1, 5, 10)]) == [0, 1, 2]
    assert repeats(BASE, [(1, 6, 11), (0, 5, 11), (0, 7, 10), (2, 5, 10)]) == []


def test_an_event_repeats_an_earlier_one() -> None:
    assert repeats(BASE, [(0, 8, 20), (0, 8, 20), (1, 8, 20), (0, 8, 21), (0, 8, 20)]) == [1, 4]


def test_where_repeats_are_real_each_interaction_answers_for_one_event() -> None:
    twice = [*BASE, (1, 5, 10)]
    events = [(1, 5, 10), (1, 5, 10), (1, 5, 10), (0, 9, 30), (0, 9, 30)]
    assert repeats(twice, events, keep_repeats=True) == [0, 1]
    assert repeats(twice, events) == [0, 1, 2, 4]


def test_events_without_time_repeat_as_often_as_the_base_data_have_it() -> None:
    base = [(0, 5, 0), (0, 6, 0), (0, 5, 0), (1, 5, 7)]
    assert repeats(base, [(0, 5, 0), (0, 5, 0), (0, 5, 0), (1, 5, 0)]) == [0, 1]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([5, 6, 7], 3),  # all of the base data, sent again
        ([6, 7, 9], 2),  # the newest part of it, then something new
        ([7], 0),  # one alone may be renewed interest as well
        ([5, 6, 9], 0),  # an old part alone cannot be told from renewed interest
        ([8, 5, 6, 7], 0),
        ([5, 6, 7, 5, 6, 7], 3),
    ],
)
def test_without_times_in_the_base_data_the_order_tells(items: list[int], expected: int) -> None:
    base = [(0, 5, 0), (0, 6, 0), (0, 7, 0), (1, 8, 0)]
    events = [(0, item, 100 + at) for at, item in enumerate(items)]
    assert repeats(base, events) == list(range(expected))
    others = [(2, item, time) for _, item, time in events]  # of someone whom the base data do not know
    assert repeats(base, sorted([*others, *events], key=lambda row: row[2])) == [2 * at + 1 for at in range(expected)]


def test_a_user_of_whom_one_interaction_is_known_has_sent_it_again() -> None:
    assert repeats([(1, 8, 0)], [(1, 8, 100), (1, 8, 101)]) == [0]


def test_the_order_tells_nothing_where_times_are_known() -> None:
    assert repeats(BASE, [(0, 6, 50), (0, 5, 51)]) == []


def test_nothing_repeats_nothing() -> None:
    assert repeats(BASE, []) == repeats([], []) == repeats([], [(0, 1, 2)]) == []


def test_a_user_s_events_are_told_from_those_of_users_before() -> None:
    """Without times in the base data each user's events are compared with that user's ending alone."""
    base = [(0, 5, 0), (1, 7, 0), (1, 8, 0)]
    assert repeats(base, [(0, 9, 100), (1, 7, 101), (1, 8, 102), (0, 5, 103)]) == [1, 2]


@pytest.mark.parametrize(
    ("base", "events", "expected"),
    [
        ([(0, 5), (1, 7)], [(0, 9), (1, 5), (1, 7)], []),  # the end of user 1 does not begin with that of user 0
        ([(0, 5), (1, 7)], [(0, 5), (0, 7), (1, 9)], [0]),  # and that of user 0 does not go on with that of user 1
        ([(0, 5), (0, 7), (1, 9)], [(0, 5), (1, 7)], []),  # the same of what they did first as events
        ([(0, 3), (1, 9), (1, 7)], [(0, 9), (1, 7)], []),
    ],
)
def test_the_order_is_looked_for_inside_one_user_alone(
    base: list[tuple[int, int]], events: list[tuple[int, int]], expected: list[int]
) -> None:
    known = [(user, item, 0) for user, item in base]
    sent = [(user, item, 100 + at) for at, (user, item) in enumerate(events)]
    assert repeats(known, sent) == expected
