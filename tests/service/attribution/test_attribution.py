"""Attribution over HTTP: every answer has a token, and only tokens of our own make events count."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.names import hash_of
from model_store.attribution.token import MAX_CHARACTERS, Answered, Attribution, sign, verify
from service.app import create_app
from service.service import Service
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import Json, fast_settings, live_store, metric, running, serving, until

pytestmark = pytest.mark.anyio

SECRET = "a secret of the shop"
KEYS = AttributionKeys.of([SECRET.encode()], "")


def read(token: str, keys: AttributionKeys = KEYS) -> Attribution:
    found = verify(token, keys, 60, int(time.time()))
    assert isinstance(found, Attribution)
    return found


async def asked(client: httpx.AsyncClient, **given: Any) -> Json:
    body = {"history": ["item-1", "item-2"], "k": 5, **given}
    answer = await client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def sent(client: httpx.AsyncClient, kind: str, item: str, token: str | None, **given: Any) -> None:
    body = {"user_id": "u", "item_id": item, "type": kind, "attribution": token, **given}
    answer = await client.post("/events", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == 1


async def today(client: httpx.AsyncClient, service: Service) -> Json:
    await service.attribution_upkeep.step()
    answer = await client.get("/attribution", params={"days": 1})
    assert answer.status_code == 200, answer.text
    [day] = answer.json()["days"]
    return dict(day)


async def test_every_answer_has_a_token_with_the_ranks_of_its_items(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with serving(tmp_path, attribution_keys=SECRET, result_cache_entries=100) as (client, _):
        first = await asked(client, user_id="u")
        again = await asked(client, user_id="u")
        popular = await asked(client, history=[], session_id=7)
        batch = (
            await client.post("/recommend/batch", json=[{"history": ["item-1"], "k": 40}, {"user_id": "x"}])
        ).json()

    assert [each["served_by"] for each in (first, again, popular)] == ["model", "cache", "popular"]
    for answer in (first, again, popular, *batch):
        token = answer["attribution"]
        assert len(token) <= MAX_CHARACTERS
        found = read(token)
        assert found.version == hash_of(version)
        assert (found.served_by, found.is_implicit) == (answer["served_by"], True)
        for rank, item in enumerate(answer["items"][:38], 1):
            assert found.rank(item["item_id"]) in range(1, rank + 1)
    assert first["attribution"] != again["attribution"]
    assert read(first["attribution"]).subject == read(again["attribution"]).subject != bytes(6)
    assert read(batch[0]["attribution"]).subject == bytes(6)


async def test_events_count_for_the_answer_that_led_to_them(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await until_signing(service)
        answer = await asked(client)
        token = answer["attribution"]
        shown = answer["items"][1]["item_id"]
        await sent(client, "click", shown, token)
        await sent(client, "purchase", shown, token, value=12.5, currency="EUR")
        await sent(client, "purchase", shown, token, value=7, currency="USD")
        await sent(client, "wish_list", "not-shown", token)
        await sent(client, "impression", shown, token)
        found = await today(client, service)

        assert metric(service, "etegrec_attributions_total", result="valid") == 4
        assert metric(service, "etegrec_attributions_total", result="other_item") == 1
        assert metric(service, "etegrec_attributed_events_total", type="purchase") == 2
        assert metric(service, "etegrec_attributed_events_total", type="own") == 1

    [row] = found["versions"]
    assert found["placements"] == []
    assert (row["name"], row["answers"], row["impressions"], row["clicks"]) == (version, 1, 5, 1)
    assert row["events"] == {"click": 1, "impression": 1, "purchase": 2, "wish_list": 1}
    assert row["values"] == {"purchase": {"EUR": 12.5, "USD": 7}}
    assert row["click_through"] == 0.2


async def test_the_placement_of_an_answer_is_in_its_token_and_counts(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with serving(tmp_path, attribution_keys=SECRET) as (client, service):
        assert (await client.put("/placements/home", json={"k": 3})).status_code == 200
        answer = await asked(client, placement="home")
        await asked(client)
        assert read(answer["attribution"]).placement == hash_of("home")
        await sent(client, "click", answer["items"][0]["item_id"], answer["attribution"])
        found = await today(client, service)

    [of_version], [of_placement] = found["versions"], found["placements"]
    assert (of_version["name"], of_version["answers"], of_version["clicks"]) == (version, 2, 1)
    assert (of_placement["name"], of_placement["answers"], of_placement["clicks"]) == ("home", 1, 1)


async def test_a_repeated_event_counts_once(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await until_signing(service)
        answer = await asked(client)
        event = {"event_id": "e", "user_id": "u", "item_id": "item-1", "attribution": answer["attribution"]}
        for _ in range(3):
            assert (await client.post("/events", json=[event])).status_code == 200
        [row] = (await today(client, service))["versions"]
    assert row["events"] == {"click": 1}


async def test_other_tokens_are_counted_and_ignored(tmp_path: Path) -> None:
    live_store(tmp_path)
    now = int(time.time())
    ours = Answered(now, "", "v", ["item-1"])
    tokens = {
        "expired": [sign(ours._replace(seconds=now - 1000), KEYS.signing)],
        "forged": [
            sign(ours, AttributionKeys.of([b"of someone else"], "").signing),
            sign(ours, AttributionKeys.of([SECRET.encode()], "another-shop").signing),
        ],
        "malformed": ["", "x" * 100_000, "ü", "AAAA", sign(ours, KEYS.signing) + "A"],
    }
    async with serving(tmp_path, attribution_keys=SECRET, attribution_ttl_s=999) as (client, service):
        for result, some in tokens.items():
            for token in some:
                await sent(client, "click", "item-1", token)
            assert metric(service, "etegrec_attributions_total", result=result) == len(some)
        await sent(client, "click", "item-1", sign(ours, KEYS.signing))
        assert metric(service, "etegrec_attributions_total", result="valid") == 1
        [row] = (await today(client, service))["versions"]
    assert row["events"] == {"click": 1}
    assert row["name"] == f"{hash_of('v'):08x}"  # a version that nobody here has answered with


async def test_a_long_list_of_events_is_verified_too(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await until_signing(service)
        token = (await asked(client))["attribution"]
        events = [{"user_id": "u", "item_id": "item-1", "attribution": token if n % 2 else None} for n in range(300)]
        assert (await client.post("/events", json=events)).json()["accepted"] == 300
        [row] = (await today(client, service))["versions"]
    assert row["clicks"] == 150


async def test_keys_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    live_store(tmp_path)
    new = "the next secret of the shop"
    async with serving(tmp_path, attribution_keys=SECRET) as (client, _):
        old_token = (await asked(client))["attribution"]
    async with serving(tmp_path, attribution_keys=f"{new}, {SECRET}") as (client, service):
        await sent(client, "click", "item-1", old_token)
        assert metric(service, "etegrec_attributed_events_total", type="click") == 1
        assert read((await asked(client))["attribution"], AttributionKeys.of([new.encode()], ""))


async def test_the_key_of_the_store_outlives_a_restart(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await until_signing(service)
        token = (await asked(client))["attribution"]
    async with serving(tmp_path) as (client, service):
        await sent(client, "click", "item-1", token)
        assert metric(service, "etegrec_attributed_events_total", type="click") == 1
        [row] = (await today(client, service))["versions"]
    assert (row["answers"], row["clicks"]) == (1, 1)  # answers of the run before were sent when it ended


async def test_answers_go_on_without_a_token_while_no_key_is_known(tmp_path: Path) -> None:
    live_store(tmp_path)
    settings = fast_settings(tmp_path)
    store = FlakyStore(Path(settings.events_path))
    app = create_app(settings, store=store)
    service: Service = app.state.service
    store.is_away = True
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        assert (await asked(client))["attribution"] is None
        event = {"user_id": "u", "item_id": "item-1", "attribution": "AAAA"}
        assert (await client.post("/events", json=event)).status_code == 503
        assert (await client.get("/attribution")).status_code == 503

        store.is_away = False
        await until_signing(service)
        assert (await asked(client))["attribution"] is not None
        [row] = (await today(client, service))["versions"]
        assert row["answers"] == 2

        store.is_away = True
        assert (await asked(client))["attribution"] is not None  # a key that is known stays known
        await service.attribution_upkeep.step()
        store.is_away = False
        [row] = (await today(client, service))["versions"]
        assert row["answers"] == 3


async def test_answers_need_not_count_as_shown(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, implicit_impressions=False) as (client, service):
        await until_signing(service)
        answer = await asked(client)
        [row] = (await today(client, service))["versions"]
        assert (row["answers"], row["impressions"], row["click_through"]) == (1, 0, None)
        shown = answer["items"][0]["item_id"]
        await sent(client, "impression", shown, answer["attribution"])
        await sent(client, "click", shown, answer["attribution"])
        [row] = (await today(client, service))["versions"]
    assert (row["impressions"], row["click_through"]) == (1, 1.0)


async def test_old_counters_are_deleted(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, counters_days=3, attribution_ttl_s=90 * 86_400, attribution_keys=SECRET) as (
        client,
        service,
    ):
        now = int(time.time())
        for days in (0, 2, 3, 20):
            token = sign(Answered(now - 86_400 * days, "", "v", ["item-1"]), KEYS.signing)
            await sent(client, "click", "item-1", token)
        await service.attribution_upkeep.delete_old_counters(
            now + 86_400
        )  # tomorrow: today's deletion was at the start
        days = (await client.get("/attribution", params={"days": 30})).json()["days"]
    assert [len(day["versions"]) for day in days[-4:]] == [0, 0, 0, 1]
    assert sum(len(day["versions"]) for day in days) == 1


async def test_only_admins_see_what_answers_led_to(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys="r" * 16, write_keys="w" * 16, admin_keys="a" * 16) as (client, _):
        statuses = [
            (await client.get("/attribution", headers={"X-API-Key": key * 16})).status_code for key in ("r", "w", "a")
        ]
    assert statuses == [403, 403, 200]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"value": 1e13}, "value", "1000000000000"),
        ({"currency": "EUR"}, "", "a currency needs a value"),
        ({"value": 1, "currency": "eur"}, "currency", "three capital letters, such as EUR"),
        (
            {"type": "Buy now"},
            "type",
            "view, click, cart, purchase, rating, impression, dislike, hide, or a name of your",
        ),
    ],
)
async def test_wrong_fields_are_refused_with_what_they_take(
    tmp_path: Path, fields: Json, field: str, message: str
) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        answer = await client.post("/events", json={"user_id": "u", "item_id": "i", **fields})
    assert answer.status_code == 422, answer.text
    [problem] = answer.json()["errors"]
    assert problem["field"] == field
    assert message in problem["message"]


async def until_signing(service: Service) -> None:
    """Wait until the service has its key."""
    await service.attribution_upkeep.step()
