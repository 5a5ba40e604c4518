"""The contract of the store, run on both implementations, and on a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from model_store.events.event import EVENT_TYPES, Event
from model_store.events.history_entry import TYPES, UserInteractions
from service.store.base import NOT_IMPORTED, History, Imported, ImportProgress, Recorded, Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer
from tests.support.store_reading import newest_event

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CAP = 5
PATIENT_MS = 10_000  # a loaded machine must not fail a test of behaviour


def event(number: int, user: str = "u", item: str | None = None) -> Event:
    return Event(event_id=f"e{number}", user_id=user, item_id=item or f"i{number}", timestamp=number)


@pytest.fixture(params=["redis", "cluster", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[Store]:
    made: Store
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        made = RedisStore(server.url, prefix=prefix, history_cap=CAP, timeout_ms=PATIENT_MS)
    elif request.param == "cluster":
        cluster: RedisClusterGroup = request.getfixturevalue("redis_cluster")
        made = RedisStore(cluster.url, prefix=prefix, history_cap=CAP, timeout_ms=PATIENT_MS, write_timeout_s=10)
    else:
        made = EmbeddedStore(tmp_path / "events", history_cap=CAP)
    async with asyncio.timeout(120):
        yield made
    await made.close()


async def test_unknown_user_has_an_empty_history(store: Store) -> None:
    await store.ping()
    assert (await store.history("nobody")).item_ids == []


async def test_history_is_oldest_first_and_keeps_the_newest(store: Store) -> None:
    await store.record([event(n) for n in range(CAP + 3)])
    await store.record([event(100)])
    assert (await store.history("u")).item_ids == ["i4", "i5", "i6", "i7", "i100"]


async def test_repeated_event_ids_are_recorded_once(store: Store) -> None:
    assert await store.record([event(1), event(1, item="other"), event(2)]) == Recorded(2, 1)
    assert await store.record([event(2), event(3)]) == Recorded(1, 1)
    assert (await store.history("u")).item_ids == ["i1", "i2", "i3"]


async def test_concurrent_repeats_are_recorded_once(store: Store) -> None:
    results = await asyncio.gather(*(store.record([event(1), event(100 + n, user=f"v{n}")]) for n in range(20)))
    assert sum(result.accepted for result in results) == 21
    assert (await store.history("u")).item_ids == ["i1"]
    assert [(await store.history(f"v{n}")).item_ids for n in range(20)] == [[f"i{100 + n}"] for n in range(20)]


async def test_a_batch_may_be_empty_or_larger_than_one_call(store: Store) -> None:
    assert await store.record([]) == Recorded(0, 0)
    many = [event(n, user=f"u{n % 7}") for n in range(700)]
    assert await store.record(many) == Recorded(700, 0)
    assert await store.record(many) == Recorded(0, 700)


async def test_ids_may_hold_any_character(store: Store) -> None:
    user, item = "a:b {c}\n\0é", "\r\n*3\u2028\U0001f600"
    await store.record([event(1, user=user, item=item)])
    assert (await store.history(user)).item_ids == [item]


async def test_forget_drops_one_history_only(store: Store) -> None:
    await store.record([event(1), event(2, user="v")])
    await store.forget("u")
    assert ((await store.history("u")).item_ids, (await store.history("v")).item_ids) == ([], ["i2"])
    assert (await newest_event(store, "u"), await newest_event(store, "v")) == (None, 2)


async def test_the_newest_event_is_so_by_its_timestamp(store: Store) -> None:
    assert await newest_event(store, "u") is None
    await store.record([event(7), event(9), event(8, user="v"), event(0, user="w")])
    await store.record([event(3), event(9)])
    assert [await newest_event(store, user) for user in "uvwx"] == [9, 8, 0, None]


async def test_histories_are_ordered_by_time_whatever_comes_first(store: Store) -> None:
    order = [50, 20, 40, 20, 60, 10, 45]  # of six kept, the two oldest go
    await store.record([event(n).model_copy(update={"timestamp": at}) for n, at in enumerate(order)])
    assert (await store.history("u")).item_ids == ["i3", "i2", "i6", "i0", "i4"]
    assert [each.timestamp for each in await store.entries("u")] == [20, 40, 45, 50, 60]


async def test_events_of_the_same_time_stay_in_the_order_in_which_they_came(store: Store) -> None:
    await store.record([event(n).model_copy(update={"timestamp": 7}) for n in (3, 1, 2)])
    await store.record([event(9).model_copy(update={"timestamp": 8})])
    await store.record([event(0).model_copy(update={"timestamp": 7})])
    assert (await store.history("u")).item_ids == ["i3", "i1", "i2", "i0", "i9"]


async def test_an_old_event_never_pushes_out_a_newer_one(store: Store) -> None:
    await store.record([event(100 + n) for n in range(CAP)])
    await store.record([event(n) for n in range(3 * CAP)])
    assert (await store.history("u")).item_ids == [f"i{100 + n}" for n in range(CAP)]


async def test_random_arrivals_end_in_the_newest_by_time(store: Store) -> None:
    random = Random(5)
    arrived: list[Event] = []
    for number in range(60):
        arrived.append(event(number).model_copy(update={"timestamp": random.randrange(12)}))
        await store.record(arrived[-1:])
        expected = sorted(arrived, key=lambda each: each.timestamp)[-CAP:]
        assert (await store.history("u")).item_ids == [each.item_id for each in expected]


async def test_the_type_of_every_event_is_kept(store: Store) -> None:
    events = [event(n).model_copy(update={"type": kind}) for n, kind in enumerate(EVENT_TYPES)]
    await store.record(events)
    assert (await store.history("u")).letters == b"vcbpr"
    assert [TYPES[each.letter] for each in await store.entries("u")] == list(EVENT_TYPES)


def past(user: str, *interactions: tuple[int, str], letter: str = "-") -> UserInteractions:
    times, items = zip(*interactions, strict=True)
    return UserInteractions(user, list(items), list(times), letter * len(items))


async def test_an_import_becomes_the_history_of_a_user_without_one(store: Store) -> None:
    many = [(n, f"i{n}") for n in range(CAP + 2)]
    assert await store.import_histories([past("u", *many), past("v", (1, "a"), letter="p")]) == Imported(2, CAP + 1)
    assert (await store.history("u")).item_ids == [f"i{n}" for n in range(2, CAP + 2)]
    assert await store.history("v") == History(["a"], b"p")
    assert await store.import_histories([]) == Imported(0, 0)


async def test_an_import_comes_before_and_between_what_is_stored(store: Store) -> None:
    await store.record([event(5), event(9)])
    assert await store.import_histories([past("u", (1, "a"), (5, "b"), (7, "c"))]) == Imported(1, 3)
    assert (await store.history("u")).item_ids == ["a", "b", "i5", "c", "i9"]
    assert await store.import_histories([past("u", (0, "x"), (6, "y"))]) == Imported(1, 1)  # room for the newest only
    assert (await store.history("u")).item_ids == ["b", "i5", "y", "c", "i9"]
    assert await store.import_histories([past("u", (0, "x"), (2, "z"))]) == Imported(0, 0)


async def test_repeating_an_import_changes_nothing(store: Store) -> None:
    await store.record([event(5).model_copy(update={"type": "purchase"})])
    first = past("u", (1, "a"), (1, "b"), (5, "i5"), (6, "a"))
    assert await store.import_histories([first]) == Imported(1, 3)
    assert await store.import_histories([first, first]) == Imported(0, 0)
    assert await store.history("u") == History(["a", "b", "i5", "a"], b"--p-")


async def test_imports_without_times_are_the_oldest(store: Store) -> None:
    await store.record([event(5)])
    await store.import_histories([past("u", (0, "b"), (0, "a"))])
    assert (await store.history("u")).item_ids == ["b", "a", "i5"]
    assert await store.import_histories([past("u", (0, "b"), (0, "a"))]) == Imported(0, 0)


async def test_an_erased_user_is_not_imported_again_but_later_events_count(store: Store) -> None:
    now = int(time.time())
    await store.import_histories([past("u", (1, "a")), past("v", (1, "a"))])
    await store.forget("u")
    await store.forget("never seen")
    later = now + 10_000
    again = [past("u", (0, "x"), (1, "a"), (now - 1, "b"), (later, "c")), past("never seen", (1, "a"))]
    assert await store.import_histories(again) == Imported(1, 1)
    assert (await store.history("u")).item_ids == ["c"]
    assert (await store.history("never seen")).item_ids == []
    await store.record([event(1)])
    assert (await store.history("u")).item_ids == ["i1", "c"]


async def test_the_progress_of_imports_is_remembered_by_version(store: Store) -> None:
    assert await store.import_progress("v1") == NOT_IMPORTED
    await store.save_import_progress("v1", ImportProgress(7, is_complete=False))
    await store.save_import_progress("v2", ImportProgress(3, is_complete=True))
    assert await store.import_progress("v1") == ImportProgress(7, is_complete=False)
    assert await store.import_progress("v2") == ImportProgress(3, is_complete=True)


async def test_an_import_and_events_at_once_lose_nothing(store: Store) -> None:
    events = [event(n, user=f"u{n % 10}") for n in range(20)]
    imports = [past(f"u{n}", (100, "a"), (200, "b")) for n in range(10)]
    await asyncio.gather(*(store.record([each]) for each in events), *(store.import_histories([x]) for x in imports))
    for n in range(10):
        assert (await store.history(f"u{n}")).item_ids == [f"i{n}", f"i{n + 10}", "a", "b"]
