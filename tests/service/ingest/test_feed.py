"""The feed: nothing is confirmed that the store does not hold, and nothing that was refused is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import Answered, sign
from model_store.errors import StoreCorrupt, StoreUnavailable
from service.attribution.key_ring import KeyRing
from service.attribution.recorder import EventRecorder
from service.ingest.checks import FieldRules, RecordCheck
from service.ingest.dead_letters import DeadLetters
from service.ingest.feed import Feed
from service.ingest.metrics import IngestMetrics
from service.ingest.source import Batch, Lag, Record, Source
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import fast_settings, live_store, serving, until
from tests.support.traces import CALLER, CALLER_SPAN, KeptTraces

pytestmark = pytest.mark.anyio


class Listed(Source):
    """Source of given batches."""

    def __init__(self, *batches: Sequence[Record]) -> None:
        self.left = list(batches)
        self.confirmed: list[Sequence[Record]] = []
        self.kept_alive = 0

    def read(self, limit: int) -> Batch | None:
        return Batch(self.left.pop(0), object()) if self.left else None

    def confirm(self, batch: Batch) -> None:
        self.confirmed.append(batch.records)

    def keep_alive(self) -> None:
        self.kept_alive += 1

    def lag(self) -> Lag:
        return Lag(sum(map(len, self.left)))

    def close(self) -> None:
        raise AssertionError("whoever opened it closes it")


class Parts:
    """A feed and all that it is made of."""

    def __init__(self, folder: Path, store: FlakyStore, source: Listed, **settings_given: Any) -> None:
        self.traces = KeptTraces()
        self.metrics = IngestMetrics()
        self.letters_file = folder / "dead.jsonl"
        self.letters = DeadLetters(self.letters_file)
        telemetry = Telemetry(self.traces.tracing)
        settings = fast_settings(folder, **settings_given)
        recorder = EventRecorder(StoreClient(store, telemetry, 1), KeyRing(settings, store.counters), 60, telemetry)
        check = RecordCheck(settings, FieldRules())
        self.feed = Feed(source, recorder, check, self.letters, self.metrics, self.traces.tracing, 100)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def dead(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.letters_file.read_text().splitlines()]


@asynccontextmanager
async def feeding(folder: Path, source: Listed, **settings_given: Any) -> AsyncIterator[tuple[Parts, FlakyStore]]:
    store = FlakyStore(folder / "events")
    parts = Parts(folder, store, source, **settings_given)
    try:
        yield parts, store
    finally:
        parts.letters.close()
        await store.close()


def good(number: int, **given: Any) -> Record:
    raw = {"event_id": f"e{number}", "user_id": "u", "item_id": f"item-{number}", "timestamp": number}
    return Record(orjson.dumps(raw), {"topic": "t", "partition": 0, "offset": number}, **given)


def bad(number: int) -> Record:
    return Record(b'{"user_id":"u","price":\xff}', {"topic": "t", "partition": 0, "offset": number})


async def test_good_records_are_events_and_bad_ones_dead_letters(tmp_path: Path) -> None:
    source = Listed([good(1), bad(2), good(1)], [good(3, timestamp=5)], [])
    async with feeding(tmp_path, source) as (parts, store):
        report = await parts.feed.run()
        assert (await store.history("u")).item_ids == ["item-1", "item-3"]
        assert (await store.backlog()).events == 2

    assert report[:4] == (2, 1, 1, {"record": 1})
    assert not report.is_clean
    assert len(source.confirmed) == 3
    assert parts.metric("etegrec_ingest_records_total", result="accepted") == 2
    assert parts.metric("etegrec_ingest_records_total", result="duplicate") == 1
    assert parts.metric("etegrec_ingest_refused_total", field="record") == 1
    [dead] = parts.dead()
    assert (dead["topic"], dead["partition"], dead["offset"]) == ("t", 0, 2)
    assert dead["reason"] == "the body must be UTF-8"
    assert dead["record"].startswith('{"user_id":"u"')
    assert parts.letters_file.stat().st_mode & 0o777 == 0o600


async def test_the_effect_is_that_of_the_endpoint(tmp_path: Path) -> None:
    live_store(tmp_path / "models")
    records = [good(number) for number in (3, 1, 2)]
    async with serving(tmp_path / "models") as (client, service):
        body = [json.loads(record.raw) for record in records]
        assert (await client.post("/events", json=body)).status_code == 200
        posted = await service.store_client.store.entries("u")

    async with feeding(tmp_path, Listed(records)) as (parts, store):
        await parts.feed.run()
        assert await store.entries("u") == posted


async def test_it_waits_for_the_store_and_confirms_nothing_meanwhile(tmp_path: Path) -> None:
    source = Listed([good(1), bad(2)], [good(3)])
    async with feeding(tmp_path, source) as (parts, store):
        store.is_away = True
        running = asyncio.create_task(parts.feed.run())
        await until(lambda: source.kept_alive >= 2)
        assert source.confirmed == []
        assert parts.dead() == []
        assert parts.metric("etegrec_ingest_stalled") == 1

        store.is_away = False
        assert (await running).accepted == 2
        assert len(source.confirmed) == 2
        assert parts.metric("etegrec_ingest_stalled") == 0


async def test_a_value_that_does_not_decode_is_waited_for(tmp_path: Path) -> None:
    class Corrupt(FlakyStore):
        def _reach(self) -> None:
            if self.is_away:
                raise StoreCorrupt("a history has another type")

    source = Listed([good(1)])
    store = Corrupt(tmp_path / "events")
    store.is_away = True
    parts = Parts(tmp_path, store, source)
    running = asyncio.create_task(parts.feed.run())
    await until(lambda: source.kept_alive >= 1)
    assert source.confirmed == []

    store.is_away = False  # somebody has repaired it
    assert (await running).accepted == 1
    parts.letters.close()
    await store.close()


async def test_stopped_while_the_store_is_away_it_leaves_everything_to_the_next_run(tmp_path: Path) -> None:
    source = Listed([good(1), bad(2)], [good(3)])
    async with feeding(tmp_path, source) as (parts, store):
        store.is_away = True
        running = asyncio.create_task(parts.feed.run())
        await until(lambda: parts.metric("etegrec_ingest_stalled") == 1)
        parts.feed.stop()
        with pytest.raises(StoreUnavailable):
            await running
        assert source.confirmed == []
        assert parts.dead() == []


async def test_stopped_it_finishes_the_batch_under_way(tmp_path: Path) -> None:
    source = Listed([good(1)], [good(2)])
    async with feeding(tmp_path, source) as (parts, _):
        parts.feed.stop()
        assert (await parts.feed.run()).accepted == 0
        assert len(source.left) == 2


async def test_dead_letters_that_cannot_be_kept_stop_it_before_it_confirms(tmp_path: Path) -> None:
    source = Listed([bad(1)])
    async with feeding(tmp_path, source) as (parts, _):
        parts.letters.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await parts.feed.run()
        assert source.confirmed == []
        parts.letters = DeadLetters(parts.letters_file)


async def test_lag_is_shown_while_messages_wait(tmp_path: Path) -> None:
    source = Listed([good(1, timestamp=1_700_000_000)], [good(2, timestamp=1_700_000_000)])
    async with feeding(tmp_path, source) as (parts, _):
        first = source.read(1)
        assert first is not None
        parts.feed._show_lag(1_700_000_000)
        assert parts.metric("etegrec_ingest_lag_records") == 1
        assert (parts.metric("etegrec_ingest_lag_seconds") or 0) > 1_000
        await parts.feed.run()
        assert parts.metric("etegrec_ingest_lag_records") == 0
        assert parts.metric("etegrec_ingest_lag_seconds") == 0


async def test_lag_is_shown_while_the_store_is_away(tmp_path: Path) -> None:
    source = Listed([good(1, timestamp=1_700_000_000)], [good(2)])
    async with feeding(tmp_path, source) as (parts, store):
        store.is_away = True
        running = asyncio.create_task(parts.feed.run())
        await until(lambda: parts.metric("etegrec_ingest_lag_records") == 1)
        assert (parts.metric("etegrec_ingest_lag_seconds") or 0) > 1_000
        source.left.append([good(3), good(4)])
        await until(lambda: parts.metric("etegrec_ingest_lag_records") == 3)

        store.is_away = False
        assert (await running).accepted == 4
        assert parts.metric("etegrec_ingest_lag_records") == 0


async def test_attributions_that_do_not_verify_are_counted_and_said(tmp_path: Path) -> None:
    answer = Answered(int(time.time()), "", "v", ["item-1"])
    tokens = {
        number: sign(answer, AttributionKeys.of([secret], "").signing)
        for number, secret in ((1, b"a key of this shop"), (2, b"a key that nobody here knows"))
    }
    records = [
        Record(orjson.dumps({"user_id": "u", "item_id": f"item-{number}", "attribution": token}), {"line": number})
        for number, token in tokens.items()
    ]
    source = Listed(records, [records[1]])
    async with feeding(tmp_path, source, attribution_keys="a key of this shop") as (parts, _):
        assert parts.metric("etegrec_ingest_attributions_total", result="forged") == 0
        with structlog.testing.capture_logs() as said:
            report = await parts.feed.run()

    assert (report.accepted, report.ignored_attributions) == (3, 2)
    assert report.attributions == {"valid": 1, "forged": 2}
    assert parts.metric("etegrec_ingest_attributions_total", result="valid") == 1
    assert parts.metric("etegrec_ingest_attributions_total", result="forged") == 2
    [warning] = [each for each in said if each["event"] == "attributions_ignored"]  # at most once a minute
    assert warning["forged"] == 1


async def test_a_batch_is_one_span_that_links_to_its_messages(tmp_path: Path) -> None:
    async with feeding(tmp_path, Listed([good(1, traceparent=CALLER), good(2)])) as (parts, _):
        await parts.feed.run()
    span = parts.traces.span("ingest")
    assert [link.context.span_id for link in span.links] == [CALLER_SPAN]
    assert parts.traces.parent_of("embedded record") == "ingest"
