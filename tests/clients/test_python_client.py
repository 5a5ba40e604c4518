"""The Python client does what the API describes: against its OpenAPI document, and against a real service process."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, is_typeddict

import httpx
import pytest
from etegrec_client import (
    AccessDenied,
    AsyncClient,
    Client,
    InvalidRequest,
    NotFound,
    Overloaded,
    PlacementConflict,
    Retries,
    ServiceFailure,
    ServiceUnreachable,
    types,
)

from service.app import create_app
from tests.support.service_harness import fast_settings, live_store
from tests.support.service_process import free_port, process, wait_for

Json = dict[str, Any]
RENAMED = {"Event": "EventBody", "Item": "ItemBody"}
"""Types of the client whose schemas have another name in the service."""
IN_REQUESTS = {
    *("RecommendRequest", "Placement", "Filter", "NotConditions", "AttributeRange", "ViewedNumber", "ViewedCategories"),
    *(
        "ExcludeShown",
        "Boost",
        "BoostRange",
        "Exploration",
        "Pin",
        "ItemPatch",
        "Item",
        "BulkItem",
        "Event",
        "WhyNotRequest",
    ),
    *("Rules", "TrafficBody", "Variant", "Experiment"),
}
"""Types of the client that it sends."""
OWN_METHODS = {"close", "record_event"}
NOT_FOR_PROGRAMS = {"metrics"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return create_app(fast_settings(tmp_path_factory.mktemp("none"))).openapi()


def methods_of(client: type) -> dict[str, Any]:
    return {name: each for name, each in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}


def test_there_is_a_method_for_every_operation(document: Json) -> None:
    operations = {each["operationId"] for path in document["paths"].values() for each in path.values()}
    assert methods_of(Client).keys() == operations - NOT_FOR_PROGRAMS | OWN_METHODS


def test_both_clients_have_the_same_methods() -> None:
    plain, awaited = methods_of(Client), methods_of(AsyncClient)
    assert plain.keys() == awaited.keys()
    for name, method in plain.items():
        assert inspect.signature(method) == inspect.signature(awaited[name]), name
        assert inspect.iscoroutinefunction(awaited[name])


def test_the_types_have_the_fields_of_the_description(document: Json) -> None:
    schemas = document["components"]["schemas"]
    own = {name: each for name, each in vars(types).items() if is_typeddict(each) and not name.startswith("_")}
    for name, type_ in own.items():
        schema = schemas[RENAMED.get(name, name)]
        assert set(type_.__annotations__) == schema["properties"].keys(), name
        if name in IN_REQUESTS:
            assert set(type_.__required_keys__) == set(schema.get("required", ())), name
        else:
            optional = {each for each, about in schema["properties"].items() if "default" in about}
            assert set(type_.__required_keys__) >= set(schema["required"]) - optional, name

    known = {RENAMED.get(name, name) for name in own} | {"ProblemDocument", "JsonValue"}
    assert schemas.keys() <= known


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    live_store(folder)
    with process(
        folder, "-m", "tests.support.placing_service", ADMIN_KEYS="admin-key", READ_KEYS="reader-key", TRENDS_S="0.1"
    ) as (_, url):
        wait_for(f"{url}/health/ready", 200)
        yield url


def test_a_day_of_a_shop(url: str) -> None:
    with Client(url, key="admin-key") as shop:
        items = [
            types.BulkItem(item_id=1000 + n, categories=["category-1"], attributes={"year": 1995}) for n in range(5)
        ]
        uploaded = shop.upload_items(iter(items), part_items=2)
        assert (uploaded["items"], uploaded["new"], uploaded["say_nothing"]) == (5, 5, 0)
        wordless = shop.upload_items([{"item_id": f"wordless-{n}", "title": "🎁"} for n in range(3)], part_items=2)
        assert (wordless["new"], wordless["say_nothing"]) == (3, 3)

        put = shop.put_item("a/b c", title="With a slash", categories=["category-1"])
        assert put["is_new"]
        assert shop.delete_item("a/b c")["hidden"]
        back = shop.patch_item("a/b c", hidden=False, attributes={"price": 2.5})
        assert (back["title"], back["attributes"], back["hidden"]) == ("With a slash", {"price": 2.5}, False)
        assert shop.get_item("a/b c") == back

        one = shop.record_event(user_id=7, item_id=1000, type="purchase")
        assert (one["accepted"], one["duplicates"]) == (1, 0)
        events: list[types.Event] = [{"user_id": 7, "item_id": "item-3", "timestamp": "2026-01-05T10:00:00Z"}]
        assert shop.record_events(events)["accepted"] == 1
        user = shop.get_user(7)
        assert user["history"] == ["item-3", "1000"]
        assert [each["type"] for each in user["interactions"]] == ["click", "purchase"]

        answer = shop.recommend(user_id=7, k=3, filter={"attributes": [{"field": "year", "gte": 1990}]})
        assert (answer["served_by"], len(answer["items"])) == ("model", 3)
        absent = shop.why_not(user_id=7, item_id="1001", k=1, filter={"deny": [1001]})
        assert (absent["verdict"], absent["closed_by"]) == ("denied", "filter.deny")
        batch = shop.recommend_batch([{"user_id": 7, "k": 3}, {"history": ["item-1"], "k": 2}])
        assert [len(each["items"]) for each in batch] == [3, 2]

        assert [each["item_id"] for each in shop.search_items("slash with")["items"]] == ["a/b c"]
        assert shop.first_codes(limit=1)["total"] >= 40

        assert len(shop.similar_items("item-3", k=4)["items"]) == 4
        prefix = shop.get_item("item-3")["codes"][:1]
        assert shop.items_by_codes(prefix, limit=1)["prefix"] == prefix
        assert len(shop.popular_items(k=3)["items"]) == 3
        assert shop.popular_items(category="category-1", k=1)["items"]
        while not (trending := shop.trending_items(k=2)["items"]):  # counts are read every TRENDS_S
            time.sleep(0.05)
        assert {each["item_id"] for each in trending} <= {"1000", "item-3"}
        bought = answer["items"][0]["item_id"]
        shop.record_event(user_id=8, item_id=bought, type="purchase", value=9.5, attribution=answer["attribution"])
        rows = [row for day in shop.get_attribution(days=2)["days"] for row in day["versions"]]
        assert {"purchase": {"-": 9.5}} in [row["values"] for row in rows]
        assert shop.get_model()["engine"] == "fake"
        assert shop.get_models()["live"]["version"] == answer["model_version"]
        assert shop.health_live() == {"status": "live"}
        assert shop.health_ready()["status"] == "ready"
        assert shop.delete_user(7) == {"history": 2, "events": 2}


def test_placements_of_a_shop(url: str) -> None:
    with Client(url, key="admin-key") as shop:
        put_at = shop.put_placement("home", {"k": 2, "filter": {"not": {"categories": ["none"]}}}, revision=0)[
            "revision"
        ]

        placed = shop.recommend(history=["item-1"], placement="home")
        assert (len(placed["items"]), placed["placement"]) == (2, {"name": "home", "revision": put_at})
        assert shop.get_placement("home")["rules"]["k"] == 2
        assert [each["name"] for each in shop.list_placements()["placements"]] == ["home"]
        with pytest.raises(PlacementConflict):
            shop.put_placement("home", {"k": 3}, revision=0)
        assert shop.delete_placement("home", revision=put_at)["revision"] > put_at
        with pytest.raises(NotFound):
            shop.recommend(history=["item-1"], placement="home")


def test_a_day_of_an_asynchronous_shop(url: str) -> None:
    async def day() -> None:
        async with AsyncClient(url, key="admin-key") as shop:
            assert (await shop.upload_items([{"item_id": "x1", "categories": ["category-1"]}]))["items"] == 1
            await shop.record_event(user_id="async", item_id="x1")
            answers = await asyncio.gather(*(shop.recommend(user_id="async", k=2) for _ in range(5)))
            assert [len(each["items"]) for each in answers] == [2] * 5
            with pytest.raises(NotFound):
                await shop.get_item("nobody")

    asyncio.run(day())


def test_problems_are_exceptions_with_their_fields(url: str) -> None:
    with Client(url, key="admin-key") as shop:
        with pytest.raises(InvalidRequest, match="invalid-fields") as wrong:
            shop.recommend(k=0)
        assert wrong.value.fields[0] | {"field": "k", "limit": 1} == wrong.value.fields[0]
        assert wrong.value.request_id
        good: types.BulkItem = {"item_id": "ok", "categories": ["category-1"]}
        with pytest.raises(InvalidRequest) as lines:
            shop.upload_items([good, good, {"item_id": "no", "title": "refused"}], part_items=2)
        assert (lines.value.slug, lines.value.fields[0]["field"]) == ("invalid-lines", "3.title")
        with pytest.raises(NotFound):
            shop.delete_item("nobody")

    with Client(url, key="reader-key") as reader, pytest.raises(AccessDenied):
        reader.delete_user("u")


def test_a_service_that_is_not_there_is_unreachable() -> None:
    retries = Retries(attempts=2, first_wait_s=0.001)
    with (
        Client(f"http://127.0.0.1:{free_port()}", retries=retries) as shop,
        pytest.raises(ServiceUnreachable, match="ConnectError"),
    ):
        shop.health_live()


class Answers:
    """A server of prepared answers, as a transport of httpx, which keeps the requests."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = iter(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer


def refusal(status: int, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=names, json={"type": "urn:etegrec:problem:queue-full", "detail": "full"})


def record(answers: Answers, retries: Retries | None = None) -> types.EventsResponse:
    with Client("http://shop", retries=retries, transport=httpx.MockTransport(answers)) as shop:
        return shop.record_event(user_id="u", item_id="i")


def record_async(answers: Answers, retries: Retries | None = None) -> types.EventsResponse:
    async def run() -> types.EventsResponse:
        async with AsyncClient("http://shop", retries=retries, transport=httpx.MockTransport(answers)) as shop:
            return await shop.record_event(user_id="u", item_id="i")

    return asyncio.run(run())


BOTH = pytest.mark.parametrize("send", [record, record_async])
Send = Callable[..., types.EventsResponse]


@BOTH
def test_a_refused_event_is_repeated_with_its_id(send: Send) -> None:
    done = httpx.Response(200, json={"accepted": 1, "duplicates": 0})
    answers = Answers(refusal(429, retry_after="0"), httpx.ConnectError("refused"), done)
    assert send(answers, Retries(first_wait_s=0.001)) == {"accepted": 1, "duplicates": 0}
    bodies = [json.loads(request.content) for request in answers.requests]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0][0]["event_id"]


@BOTH
def test_there_is_an_end_to_it(send: Send) -> None:
    for attempts in (1, 2):
        answers = Answers(*[refusal(503, retry_after="0")] * 3)
        with pytest.raises(Overloaded) as refused:
            send(answers, Retries(attempts=attempts))
        assert (len(answers.requests), refused.value.retry_after_s) == (attempts, 0)


@BOTH
def test_nobody_waits_longer_than_allowed_or_repeats_what_cannot_help(send: Send) -> None:
    for answer, error in (
        (refusal(429, retry_after="60"), Overloaded),
        (refusal(422), InvalidRequest),
        (httpx.Response(500, text="<html>"), ServiceFailure),
        (httpx.ReadTimeout("slow"), ServiceUnreachable),
    ):
        answers = Answers(answer)
        with pytest.raises(error):
            send(answers)
        assert len(answers.requests) == 1
