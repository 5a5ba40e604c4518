"""Real answers have exactly the fields that their documented types declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from service.app import create_app
from service.http.endpoints import Endpoint
from service.http.problems import ProblemDocument
from service.http.routes import ENDPOINTS
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, live_store, running, until

pytestmark = pytest.mark.anyio

EVENT = {"event_id": "e", "user_id": "u", "item_id": "item-1", "timestamp": 1}
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/recommend", {"history": ["item-1", "nobody-knows"], "k": 3}),
    ("POST", "/recommend", {"history": ["item-1", "item-2"], "k": 3, "explain": True}),
    ("POST", "/recommend", {"k": 3, "explain": True}),
    ("POST", "/recommend/batch", [{"history": ["item-1"]}, {}]),
    ("POST", "/recommend/why-not", {"history": ["item-1"], "item_id": "item-5"}),
    ("PUT", "/placements/home", {"k": 3, "filter": {"not": {"categories": ["category-1"]}}}),
    ("GET", "/placements/home", None),
    ("GET", "/placements", None),
    ("POST", "/placements/preview?replaces=home", {"k": 4, "pins": [{"position": 1, "item": "item-3"}]}),
    ("POST", "/recommend", {"history": ["item-1"], "placement": "home"}),
    ("PUT", "/experiments/sizes", {"variants": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]}),
    ("GET", "/experiments/sizes", None),
    ("GET", "/experiments", None),
    ("PUT", "/placements/home", {"experiment": "sizes"}),
    ("POST", "/recommend", {"user_id": "u", "placement": "home", "k": 3}),
    ("GET", "/experiments/sizes/report", None),
    ("DELETE", "/placements/home", None),
    ("DELETE", "/experiments/sizes?force=true", None),
    ("POST", "/events", EVENT),
    ("POST", "/events", [EVENT]),
    ("GET", "/users/u", None),
    ("DELETE", "/users/u", None),
    ("POST", "/items/preview?k=30", {"title": "New", "categories": ["x"]}),
    ("PUT", "/items/new", {"title": "New", "categories": ["x"], "attributes": {"year": 2026}}),
    ("POST", "/items/bulk", {"item_id": "bulk", "title": "t"}),
    ("PATCH", "/items/new", {"title": "Newer"}),
    ("GET", "/items/new", None),
    ("DELETE", "/items/new", None),
    ("GET", "/items/item-3/similar", None),
    ("GET", "/items?query=title", None),
    ("GET", "/codes", None),
    ("GET", "/codes/{code}", None),
    ("GET", "/popular", None),
    ("GET", "/trending", None),
    ("GET", "/attribution", None),
    ("GET", "/attribution/codes", None),
    ("GET", "/model", None),
    ("GET", "/models", None),
    ("GET", "/health/live", None),
    ("GET", "/health/ready", None),
]


def check_fields(type_: Any, answer: httpx.Response) -> None:
    """Fields of wrong types raise; fields that the type does not declare are lost."""
    adapter = TypeAdapter(type_)
    assert adapter.dump_python(adapter.validate_json(answer.content, strict=True), mode="json") == answer.json()


def endpoint_of(method: str, path: str) -> Endpoint:
    path = path.partition("?")[0]
    with_name = {
        "users": "/users/{user_id:id}",
        "codes": "/codes/{prefix}",
        "placements": "/placements/{name}",
        "experiments": "/experiments/{name}",
        "items": "/items/{item_id:id}",
    }
    template = path
    if path not in {each.path for each in ENDPOINTS}:
        template = with_name[path.split("/")[1]]
        template += path[path.rindex("/") :] if path.endswith(("/similar", "/report")) else ""
    return next(each for each in ENDPOINTS if (each.method, each.path) == (method, template))


async def test_answers_are_what_their_types_declare(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=0.01), coders=hash_coder)
    seen = set()
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        code = int(app.state.service.models.current.catalogue.codes[0, 0])
        for method, path, body in REQUESTS:
            endpoint = endpoint_of(method, path)
            headers = {"Content-Type": endpoint.body_media}
            answer = await client.request(method, path.format(code=code), json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            check_fields(endpoint.answer, answer)
            seen.add(endpoint)
        check_fields(ProblemDocument, await client.get("/items/nobody"))
        check_fields(ProblemDocument, await client.post("/recommend", json={"k": 0}))
    assert {endpoint.path for endpoint in set(ENDPOINTS) - seen} == {"/metrics"}


async def test_every_endpoint_checks_the_key_it_documents(tmp_path: Path) -> None:
    settings = fast_settings(tmp_path, read_keys="may-only-read", write_keys="may-write-too")
    async with running(create_app(settings)) as client:
        for endpoint in ENDPOINTS:
            path = endpoint.path.replace("{item_id:id}", "i").replace("{user_id:id}", "u").replace("{prefix}", "1")
            no_key = await client.request(endpoint.method, path)
            read_key = await client.request(endpoint.method, path, headers={"X-API-Key": "may-only-read"})
            assert (no_key.status_code == 401) == (endpoint.access != "open"), path
            assert (read_key.status_code == 403) == (endpoint.access not in ("open", "read")), path
