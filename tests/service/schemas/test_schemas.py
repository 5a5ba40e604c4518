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
    ("POST", "/events", EVENT),
    ("POST", "/events", [EVENT]),
    ("GET", "/users/u", None),
    ("DELETE", "/users/u", None),
    ("PUT", "/items/new", {"title": "New", "categories": ["x"], "attributes": {"year": 2026}}),
    ("POST", "/items/bulk", {"item_id": "bulk", "title": "t"}),
    ("PATCH", "/items/new", {"title": "Newer"}),
    ("GET", "/items/new", None),
    ("DELETE", "/items/new", None),
    ("GET", "/items/item-3/similar", None),
    ("GET", "/codes/{code}", None),
    ("GET", "/popular", None),
    ("GET", "/trending", None),
    ("GET", "/model", None),
    ("GET", "/health/live", None),
    ("GET", "/health/ready", None),
]


def check_fields(type_: Any, answer: httpx.Response) -> None:
    """Fields of wrong types raise; fields that the type does not declare are lost."""
    adapter = TypeAdapter(type_)
    assert adapter.dump_python(adapter.validate_json(answer.content, strict=True), mode="json") == answer.json()


def endpoint_of(method: str, path: str) -> Endpoint:
    template = {"users": "/users/{user_id:id}", "codes": "/codes/{prefix}"}.get(path.split("/")[1], path)
    if path.startswith("/items/") and path != "/items/bulk":
        template = "/items/{item_id:id}/similar" if path.endswith("/similar") else "/items/{item_id:id}"
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
