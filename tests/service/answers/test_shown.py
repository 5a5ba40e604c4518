"""What was shown leaves the next answers: pages without repeats, whoever asks, store or no store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.errors import StoreUnavailable
from service.answers import shown as shown_module
from service.answers.shown import ShownTracker, shown_items
from service.app import create_app
from service.schemas.recommend import ONE_REQUEST
from service.schemas.rules import ExcludeShown
from service.service import Service
from service.store.client import StoreClient
from service.store.embedded_store import EmbeddedStore
from service.store.shown_answers import ShownAnswer, Subject
from service.telemetry.telemetry import Telemetry
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import Json, fast_settings, live_store, metric, running, serving, until

pytestmark = pytest.mark.anyio

USER = Subject("user", "u")
HOUR = 3_600_000_000  # microseconds


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"answers": 1}, {"d"}),
        ({"answers": 2}, {"c", "d"}),
        ({"answers": 9}, {"a", "b", "c", "d"}),
        ({"hours": 1.0}, {"d"}),
        ({"hours": 3.0}, {"b", "c", "d"}),
        ({"answers": 2, "hours": 0.5}, {"c", "d"}),
        ({"answers": 1, "hours": 3.0}, {"b", "c", "d"}),
    ],
)
def test_answers_and_hours_leave_out_what_either_of_them_speaks_of(rule: Json, expected: set[str]) -> None:
    now = 100 * HOUR
    answers = [
        ShownAnswer(USER, now - 5 * HOUR, ["a"]),
        ShownAnswer(USER, now - HOUR, ["d"]),
        ShownAnswer(USER, now - 2 * HOUR, ["c"]),
        ShownAnswer(USER, now - 3 * HOUR, ["b"]),
        ShownAnswer(USER, now - HOUR, ["d"]),  # read from the store and from memory
    ]
    found = shown_items(answers, ExcludeShown.model_validate(rule), now)
    assert set(found) == expected
    assert len(found) == len(expected)


async def page(client: httpx.AsyncClient, **body: Any) -> list[str]:
    asked = {"user_id": "u", "k": 10, "exclude_shown": {"answers": 100}, **body}
    response = await client.post("/recommend", json=asked)
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


async def test_pages_do_not_repeat_until_the_catalogue_ends(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await client.post("/events", json={"user_id": "u", "item_id": "item-1", "type": "view"})
        for asked in ({"user_id": "u"}, {"user_id": None, "session_id": "s", "history": ["item-1"]}):
            pages = [await page(client, **asked) for _ in range(5)]
            assert [len(each) for each in pages[:3]] == [10, 10, 10]
            shown = [item for each in pages for item in each]
            assert len(shown) == len(set(shown)) >= 39  # what the history has may be left out
            assert pages[-1] == []


async def test_the_user_counts_before_the_session_and_only_such_answers_are_noted(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        plain = await page(client, exclude_shown=None)
        assert await page(client) == plain  # an answer without the rule does not count
        other = await page(client, user_id="v", session_id="s")
        assert other == plain
        assert await page(client, user_id=None, session_id="s") == plain  # that session was never asked for alone
        assert not set(await page(client, session_id="s")) & set(plain)
        assert await page(client, exclude_shown=None) == plain


async def test_the_last_answers_are_written_when_a_process_ends(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = SlowNotes(tmp_path / "events")
    store.may_return.set()
    app = create_app(fast_settings(tmp_path), store=store)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        await page(client)
    assert store.noted == 1


async def test_nobody_to_remember_is_said(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for _ in range(2):
            body = {"k": 3, "exclude_shown": {"answers": 5}}
            answer = (await client.post("/recommend", json=body)).json()
            assert answer["ignored_rules"] == ["exclude_shown"]
            assert len(answer["items"]) == 3
        known = (await client.post("/recommend", json={**body, "session_id": 7})).json()
        assert known["ignored_rules"] == []


async def test_a_forgotten_user_sees_everything_again(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        first = await page(client)
        assert await page(client) != first
        assert (await client.delete("/users/u")).status_code == 200
        assert await page(client) == first
        await service.shown.write()
        assert (await client.delete("/users/u")).status_code == 200
        assert await page(client) == first


async def test_without_the_store_this_replica_remembers_and_says_degraded(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "events")
    app = create_app(fast_settings(tmp_path), store=store)
    service: Service = app.state.service
    body = {"session_id": "s", "k": 10, "exclude_shown": {"answers": 100}}
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        first = (await client.post("/recommend", json=body)).json()
        assert not first["degraded"]
        await service.shown.write()
        store.is_away = True
        second = (await client.post("/recommend", json=body)).json()
        third = (await client.post("/recommend", json=body)).json()
        assert (second["degraded"], third["degraded"]) == (True, True)
        assert second["items"] != third["items"]
        assert not {each["item_id"] for each in second["items"]} & {each["item_id"] for each in third["items"]}

        store.is_away = False
        await until(lambda: service.store_client.is_up)
        await service.shown.write()
        [stored] = await store.shown([Subject("session", "s")])
        assert isinstance(stored, list)
        assert [len(each.item_ids) for each in stored] == [10, 10, 10]


class SlowNotes(EmbeddedStore):
    """A store whose writes of shown answers are stored first and acknowledged later."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.may_return = asyncio.Event()
        self.noted = 0

    async def note_shown(self, answers: Sequence[ShownAnswer]) -> None:
        await super().note_shown(answers)
        self.noted += 1
        await self.may_return.wait()


async def test_an_answer_is_seen_before_while_and_after_it_is_written(tmp_path: Path) -> None:
    store = SlowNotes(tmp_path)
    tracker = ShownTracker(StoreClient(store, Telemetry(), 1.0), Telemetry())
    request = ONE_REQUEST.validate_python({"user_id": "u", "exclude_shown": {"answers": 2}})
    tracker.note(request, ["a"])
    assert (await tracker.read(request)).item_ids == ["a"]
    writing = asyncio.create_task(tracker.write())
    await until(lambda: store.noted == 1)
    tracker.note(request, ["b"])
    assert sorted((await tracker.read(request)).item_ids) == ["a", "b"]
    store.may_return.set()
    await writing
    assert store.noted == 2
    assert sorted((await tracker.read(request)).item_ids) == ["a", "b"]
    tracker.note(request, [])
    await tracker.write()
    assert store.noted == 2
    await store.close()


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_module, "WAITING_ANSWERS", 3)
    store = FlakyStore(tmp_path)
    store.is_away = True
    telemetry = Telemetry()
    stopped = time.time_ns()  # answers of one moment are told apart
    tracker = ShownTracker(StoreClient(store, telemetry, 1.0), telemetry, clock=lambda: stopped)
    request = ONE_REQUEST.validate_python({"user_id": "u", "exclude_shown": {"answers": 100}})
    for number in range(5):
        tracker.note(request, [f"i{number}"])
    with pytest.raises(StoreUnavailable):
        await tracker.write()
    found = await tracker.read(request)
    assert found.is_missing
    assert sorted(found.item_ids) == ["i2", "i3", "i4"]
    assert telemetry.registry.get_sample_value("etegrec_shown_dropped_total") == 2.0

    store.is_away = False
    await tracker.write()
    [stored] = await store.shown([USER])
    assert isinstance(stored, list)
    assert [each.item_ids for each in stored] == [["i2"], ["i3"], ["i4"]]
    await store.close()


async def test_a_placement_may_hold_the_rule(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        rules = {"k": 8, "exclude_shown": {"hours": 1}}
        assert (await client.put("/placements/feed", json=rules)).status_code == 200
        pages = []
        for _ in range(2):
            answer = (await client.post("/recommend", json={"user_id": "u", "placement": "feed"})).json()
            pages.append({item["item_id"] for item in answer["items"]})
        assert [len(each) for each in pages] == [8, 8]
        assert not pages[0] & pages[1]
        assert metric(service, "etegrec_shown_dropped_total") == 0
