"""Records are refused exactly where POST /events refuses them, with the same words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from service.ingest.checks import OTHER_FIELD, WHOLE_RECORD, FieldRules, RecordCheck
from service.ingest.source import Record
from tests.support.service_harness import fast_settings, live_store, serving

GOOD = {"event_id": "e1", "user_id": 7, "item_id": "i", "type": "cart", "timestamp": "2026-01-05"}

WRONG: list[tuple[bytes, str]] = [
    (b"{", WHOLE_RECORD),
    (b"", WHOLE_RECORD),
    (b"[]", WHOLE_RECORD),
    (b'{"user_id":"u","user_id":"v","item_id":"i"}', WHOLE_RECORD),
    (b'{"user_id":"\\ud800","item_id":"i"}', WHOLE_RECORD),
    (b'{"item_id":"i"}', "user_id"),
    (b'{"user_id":"u","item_id":""}', "item_id"),
    (b'{"user_id":"u","item_id":"i","type":"Buy now"}', "type"),
    (b'{"user_id":"u","item_id":"i","timestamp":1700000000000}', "timestamp"),
    (b'{"user_id":1.5,"item_id":"i"}', "user_id"),
    (b'{"user_id":"u","item_id":"i","price":3}', OTHER_FIELD),
]


def check(tmp_path: Path, rules: FieldRules | None = None, **settings: Any) -> RecordCheck:
    return RecordCheck(fast_settings(tmp_path, **settings), rules or FieldRules())


def record(raw: bytes | Mapping[str, object], **given: Any) -> Record:
    return Record(raw if isinstance(raw, bytes) else orjson.dumps(dict(raw)), {"line": 1}, **given)


@pytest.mark.anyio
async def test_wrong_records_are_refused_as_the_endpoint_refuses_them(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        checked = RecordCheck(service.settings, FieldRules()).check([record(raw) for raw, _ in WRONG])
        assert [refusal.fields for refusal in checked.refused] == [{field} for _, field in WRONG]
        assert not checked.events
        for (raw, _), refusal in zip(WRONG, checked.refused, strict=True):
            if raw == b"[]":
                continue  # a list, which only the endpoint takes
            answer = await client.post("/events", content=raw, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422)
            told = answer.json()
            reasons = [f"{each['field'] or 'the record'} {each['message']}" for each in told.get("errors", ())]
            assert refusal.reason == ("; ".join(reasons) if reasons else told["detail"])


def test_what_an_event_lacks_comes_from_its_place(tmp_path: Path) -> None:
    bare = {"user_id": "u", "item_id": "i"}
    made = record(bare, event_id="made", timestamp=5)
    [first, second, third] = (
        check(tmp_path).check([made, record(GOOD, event_id="made", timestamp=5), record(bare)]).events
    )
    assert (first.event_id, first.timestamp) == ("made", 5)
    assert (second.event_id, second.user_id, second.type, second.timestamp) == ("e1", "7", "cart", 1_767_571_200)
    assert len(third.event_id) == 32
    assert third.timestamp > 1_700_000_000


def test_a_record_that_is_too_long_names_the_limit(tmp_path: Path) -> None:
    [refusal] = check(tmp_path, max_body_bytes=1024).check([record(b"x", is_too_long=True)]).refused
    assert refusal.reason == "must be at most 1024 bytes long (max_body_bytes)"


@pytest.mark.parametrize("rules", [FieldRules(), FieldRules(drops_unknown=True), FieldRules({"visitor": "user_id"})])
def test_a_number_beyond_64_bits_is_judged_by_its_field_alone(tmp_path: Path, rules: FieldRules) -> None:
    number = b"123456789012345678901234567890"
    checked = check(tmp_path, rules).check(
        [
            record(b'{"user_id":"u","item_id":"i","value":%s}' % number),
            record(b'{"user_id":"u","item_id":"i","timestamp":%s}' % number),
            record(b'{"user_id":%s,"item_id":"i"}' % number),
        ]
    )
    assert [refusal.fields for refusal in checked.refused] == [{"value"}, {"timestamp"}]
    assert [event.user_id for event in checked.events] == [number.decode()]


def test_fields_are_renamed_and_dropped_and_the_dropped_are_counted(tmp_path: Path) -> None:
    checker = check(tmp_path, FieldRules({"visitor": "user_id", "sku": "item_id"}, drops_unknown=True))
    raw = {"visitor": "u", "sku": 5, "price": 3, "shop": "north", "timestamp": 9}
    done = checker.check([record(raw), record({**raw, "price": None}), record({"visitor": "u", "item": 5})])
    assert [(each.user_id, each.item_id, each.timestamp) for each in done.events] == [("u", "5", 9)] * 2
    assert [refusal.fields for refusal in done.refused] == [{"item_id"}]
    assert checker.dropped_fields == {"price": 2, "shop": 2, "item": 1}

    checker.check([record({"visitor": "u", "sku": 5, f"extra{number}": 1}) for number in range(200)])
    assert len(checker.dropped_fields) == 51
    assert checker.dropped_fields["other"] == 200 - 47
