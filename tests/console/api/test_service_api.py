"""Access to the service: which key goes where, and curl commands that repeat a call."""

from __future__ import annotations

import shlex

import httpx
import pytest
from etegrec_client import ServiceUnreachable

from console.api.service_api import SHOWN_CALLS, ServiceApi, curl_of
from console.settings import Settings

pytestmark = pytest.mark.anyio


async def test_looking_and_acting_use_their_own_keys() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    async def keys(**given: str) -> list[str | None]:
        sent.clear()
        api = ServiceApi(Settings.load(**given), httpx.MockTransport(answer))
        await api.looking.get_item("1")
        await api.acting.delete_item("1")
        return [request.headers.get("x-api-key") for request in sent]

    assert await keys() == [None, None]
    assert await keys(key="reader") == ["reader", "reader"]
    assert await keys(key="reader", write_key="writer") == ["reader", "writer"]


async def test_calls_are_noted_newest_first_once_each_and_without_keys() -> None:
    api = ServiceApi(
        Settings.load(service="http://shop:1/", key="secret"),
        httpx.MockTransport(lambda _: httpx.Response(200, json={})),
    )
    noted: list[int] = []
    api.on_call = lambda: noted.append(len(api.calls))
    await api.looking.get_item("a b")
    await api.looking.recommend(history=["it's"], k=3)
    await api.looking.get_item("a b")
    assert api.calls[0] == 'curl -s http://shop:1/items/a%20b -H "X-API-Key: $KEY"'
    assert noted == [1, 2, 2]
    assert "secret" not in " ".join(api.calls)
    words = shlex.split(api.calls[1])
    assert words[words.index("-d") + 1] == '{"history":["it\'s"],"k":3}'

    for n in range(2 * SHOWN_CALLS):
        await api.looking.get_item(n)
    assert len(api.calls) == SHOWN_CALLS


async def test_metrics_that_do_not_come_are_a_service_that_cannot_be_reached() -> None:
    for answer in (httpx.Response(502, text="proxy"), httpx.ConnectError("refused")):

        def send(_: httpx.Request, answer: httpx.Response | httpx.ConnectError = answer) -> httpx.Response:
            if isinstance(answer, httpx.Response):
                return answer
            raise answer

        with pytest.raises(ServiceUnreachable):
            await ServiceApi(Settings.load(), httpx.MockTransport(send)).metrics()


def test_a_command_quotes_what_a_shell_would_read() -> None:
    request = httpx.Request("PUT", "http://s/items/$(rm -rf)", json={"title": "`x` $HOME 'q'"})
    words = shlex.split(curl_of(request))
    assert words[:4] == ["curl", "-s", "-X", "PUT"]
    assert words[-1] == request.content.decode()
