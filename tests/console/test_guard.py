"""The guard: foreign names, foreign pages, the password, and what browsers may load."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from console import guard
from console.guard import Guard
from console.settings import Settings

pytestmark = pytest.mark.anyio

OWN = {"host": "127.0.0.1:8088", "origin": "http://127.0.0.1:8088"}


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await PlainTextResponse("a page")(scope, receive, send)


def client(**given: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Guard(pages, Settings.load(**given)))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8088")


async def socket_answer(headers: dict[str, str], **given: Any) -> Message:
    """Ask for a web socket and return the first message that comes back."""
    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/ws", "headers": Headers(headers).raw}
    await Guard(pages, Settings.load(**given))(scope, receive, send)
    return answers[0]


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()}


async def test_pages_load_nothing_from_elsewhere_and_are_framed_by_nobody() -> None:
    answer = await client().get("/")
    assert answer.text == "a page"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8088", "", "127.0.0.1.evil.example"])
async def test_a_foreign_name_is_refused(host: str) -> None:
    assert (await client().get("/", headers={"host": host})).status_code == 400


async def test_names_that_are_given_are_known() -> None:
    known = client(names="console.shop.example, other")
    assert (await known.get("/", headers={"host": "console.shop.example:443"})).status_code == 200
    assert (await known.get("/", headers={"host": "localhost:1"})).status_code == 200
    assert (await known.get("/", headers={"host": "[::1]:8088"})).status_code == 200
    assert (await known.get("/", headers={"host": "shop.example"})).status_code == 400


async def test_only_pages_of_the_console_may_act() -> None:
    asked = client()
    assert (await asked.post("/", headers=OWN)).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        assert (await asked.post("/", headers={**OWN, "origin": origin})).status_code == 403
        assert (await asked.get("/", headers={**OWN, "origin": origin})).status_code == 403
    assert (await asked.post("/", headers={"host": OWN["host"]})).status_code == 403


async def test_web_sockets_of_other_sites_are_closed() -> None:
    assert await socket_answer(OWN) == {"type": "websocket.accept"}
    for headers in ({**OWN, "origin": "http://evil.example"}, {"host": OWN["host"]}, {**OWN, "host": "evil.example"}):
        assert await socket_answer(headers) == {"type": "websocket.close", "code": 1008}


async def test_whether_it_runs_is_told_without_the_password_but_by_its_own_name_only() -> None:
    asked = client(password="a-long-password")
    assert (await asked.get("/health")).status_code == 200
    assert (await asked.get("/health", headers={"host": "evil.example"})).status_code == 400
    for other in ("/health/", "/healthy", "//health"):
        assert (await asked.get(other)).status_code == 401


async def test_the_password_guards_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WRONG_PASSWORD_S", 0)
    asked = client(password="a-long-password")
    refused = await asked.get("/")
    assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
    assert (await asked.get("/", headers=basic("a-long-password"))).status_code == 200
    for wrong in (basic("a-long-passwor"), basic(""), {"authorization": "Basic ???"}, {"authorization": "Bearer x"}):
        assert (await asked.get("/", headers=wrong)).status_code == 401
    secret = "a-long-password"
    assert (await socket_answer(OWN, password=secret))["type"] == "websocket.close"
    assert (await socket_answer({**OWN, **basic(secret)}, password=secret))["type"] == "websocket.accept"
