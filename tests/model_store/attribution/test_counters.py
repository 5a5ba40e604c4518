"""Counters: what answers and events add, and the rows that they are read as."""

from __future__ import annotations

from model_store.attribution.counters import amounts_of_answers, counts_of_event, day_of, days_until, rows_of
from model_store.attribution.keys import AttributionKeys
from model_store.attribution.names import hash_of, label_of, names_by_label
from model_store.attribution.token import Answered, Attribution, sign, verify
from model_store.events.counts import Counts, by_day
from model_store.events.event import Event

NOW = 1_767_607_200  # 2026-01-05T10:00:00Z
KEYS = AttributionKeys.of([b"key"], "")


def token(**given: object) -> Attribution:
    fields = {"seconds": NOW, "subject": "", "version": "v1", "item_ids": ["a"], "placement": "home", **given}
    found = verify(sign(Answered(**fields), KEYS.signing), KEYS, 60, NOW)  # type: ignore[arg-type]
    assert isinstance(found, Attribution)
    return found


def event(kind: str, **given: object) -> Event:
    fields = {"event_id": "e", "user_id": "u", "item_id": "a", "timestamp": NOW + 90_000, "type": kind, **given}
    return Event.model_validate(fields)


def test_an_event_counts_on_the_day_of_its_answer() -> None:
    counts = counts_of_event(event("purchase", value=12.5, currency="EUR"), token())
    assert counts.day == "2026-01-05"
    rows = rows_of(counts.amounts)
    assert [row.kind for row in rows] == ["p", "v"]
    for row in rows:
        assert row.events == {"purchase": 1}
        assert row.values == {"purchase": {"EUR": 12.5}}


def test_a_day_adds_up() -> None:
    parts = [
        Counts("2026-01-05", amounts_of_answers("v1", None, 3, 30)),
        counts_of_event(event("click"), token(placement=None)),
        counts_of_event(event("click"), token(placement=None)),
        counts_of_event(event("rating", value=4), token(placement=None)),
        Counts("2026-01-06", amounts_of_answers("v1", None, 1, 0)),
    ]
    totals = by_day(parts)
    [row] = rows_of(totals["2026-01-05"])
    assert (row.kind, row.label) == ("v", label_of(hash_of("v1")))
    assert (row.answers, row.shown, row.clicks) == (3, 30, 2)
    assert row.events == {"click": 2, "rating": 1}
    assert row.values == {"rating": {"-": 4.0}}
    assert row.click_through == 2 / 30

    [other] = rows_of(totals["2026-01-06"])
    assert other.click_through is None
    assert names_by_label(["v1"]) == {other.label: "v1"}


def test_an_impression_is_shown_only_where_answers_are_not_counted_as_shown() -> None:
    [implicit] = rows_of(counts_of_event(event("impression"), token(placement=None)).amounts)
    [explicit] = rows_of(counts_of_event(event("impression"), token(placement=None, is_implicit=False)).amounts)
    assert (implicit.shown, explicit.shown) == (0, 1)
    assert implicit.events == explicit.events == {"impression": 1}


def test_counters_of_other_kinds_are_left_out() -> None:
    amounts = {"e|0000000a|1|click": 4.0, "v|0000000b|click": 2.0}
    assert [(row.label, row.events) for row in rows_of(amounts)] == [("0000000b", {"click": 2})]


def test_days() -> None:
    assert day_of(NOW) == "2026-01-05"
    assert day_of(0) == "1970-01-01"
    assert days_until(NOW, 3) == ["2026-01-03", "2026-01-04", "2026-01-05"]
